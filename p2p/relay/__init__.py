"""Reaching peers behind NAT: circuit relay v2, dial-back, and hole punching, after libp2p's specifications.

``service`` relays for others, ``circuit`` dials and answers through a relay, ``reachability`` keeps a
program reachable, ``punch`` trades a relayed connection for a direct one. What is relayed is sealed
from end to end: a relay sees ciphertext only.
"""
