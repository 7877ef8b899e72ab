"""What every job of one Engine shares, and the limits of its session. Data only."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from p2p.disk import RunBlocking, run_in_thread
from p2p.files import FileStore
from p2p.lan import Lan, MulticastLan
from p2p.network import Network
from p2p.protocols.coordinator import ChainInfo
from p2p.session.checks import Checks
from p2p.session.coordinator_link import CoordinatorLink
from p2p.session.own_data import OwnData
from p2p.session.store import JobStore
from p2p.session.treasury import Treasury


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one session; times in seconds, sizes in bytes."""

    peer_patience_s: float = 75.0
    """How long a peer may be out of reach before the coordinator is told: longer than its lease, and
    than any cut that a network gets over."""
    inference_patience_s: float = 60.0
    """How long a call to a model is repeated over lost connections."""
    max_model_bytes: int = 4 << 30
    chunk_timeout_s: float = 30.0
    poll_ms: int = 20_000


@dataclass(frozen=True, slots=True)
class Engine:
    """What every job of one Engine shares."""

    network: Network
    coordinator: CoordinatorLink
    treasury: Treasury
    files: FileStore
    checks: Checks
    store: JobStore
    data: OwnData
    now: Callable[[], float]
    chain: ChainInfo | None
    """None where no coordinator is known."""
    lan: Lan = field(default_factory=MulticastLan)
    limits: Limits = Limits()
    run_blocking: RunBlocking = run_in_thread
    draw: Callable[[], float] = random.random
    """From 0 up to 1, for the pauses between attempts."""
