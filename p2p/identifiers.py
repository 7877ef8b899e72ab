"""Names and bounds that every message shares. No behaviour beyond checking a form."""

from __future__ import annotations

from typing import Annotated, NewType

from msgspec import Meta

PROTOCOL_VERSION = 3
"""Raised when a message changes incompatibly. 1 (2026-11): first version. 2 (2026-11): streamed data.
3 (2026-11): another learning rate for a job that runs.
"""

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58; of an Ed25519 key it *is* the public key."""

JobId = NewType("JobId", str)
"""64 lower-case hex digits, chosen at random by the Engine: 32 bytes, a seed of the escrow address."""

Units = NewType("Units", int)
"""Token units: 1 CYXWIZ = 10**9 units. Money is never a float."""

UNITS_PER_TOKEN = 10**9

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", max_length=64)]
"""A BLAKE3 digest in hex."""
JobIdField = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", max_length=64)]
PeerIdField = Annotated[str, Meta(pattern=r"^[1-9A-HJ-NP-Za-km-z]{16,64}\Z", max_length=64)]
NamedPeer = Annotated[str, Meta(min_length=16, max_length=128)]
"""Whom a user names: in records on disk too, and whoever misspells an id names nobody."""
Address = Annotated[str, Meta(max_length=256)]
"""A multiaddress as text."""
Wallet = Annotated[str, Meta(min_length=32, max_length=44)]
"""A Solana public key in base58."""
TransactionSignature = Annotated[str, Meta(min_length=64, max_length=90)]
Label = Annotated[str, Meta(max_length=128)]
Text = Annotated[str, Meta(max_length=4096)]
NO_WALLET = "1" * 32
"""Where nobody pays: Solana's address of all zeros, of which no key is known."""
Token = Annotated[str, Meta(max_length=2048)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Amount = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Sequence = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
Signature64 = Annotated[bytes, Meta(min_length=64, max_length=64)]
