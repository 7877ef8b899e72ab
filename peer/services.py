"""What every job of this peer works with. Made once by the daemon, handed to runners and streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from p2p.jobs import Delivery
from p2p.network import Network
from peer.access import Access
from peer.admission import NO_SERVING, ServingLimits
from peer.artifacts import Artifacts
from peer.deployments import Deployments, DeviceWorkers
from peer.link import CoordinatorLink
from peer.money import Money
from peer.plan import Patience
from peer.served import ServedModels
from peer.store import Store


@dataclass(frozen=True, slots=True)
class Terms:
    """What this peer offers and for how much; ``flops_per_s`` and workers go by offered device."""

    price_per_hour: int
    node_wallet: str
    payout_wallet: str
    flops_per_s: tuple[int, ...]
    max_data_bytes: int
    patience: Patience = field(default_factory=Patience)
    settle_grace_s: float = 20.0
    """How long a coordinator may take to settle a final voucher before the peer does it."""
    min_claim_window_s: int = 1
    """In less, a coordinator and a user in league could take back what is vouchered."""
    streams: bool = True
    """Takes jobs whose data stays with the Engine."""
    stream_ahead_bytes: int = 64 << 20
    """How much of what is streamed a worker may hold ahead of its use."""
    serving: ServingLimits = NO_SERVING

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        return tuple(Delivery) if self.streams else (Delivery.FILE,)


@dataclass(frozen=True, slots=True)
class Services:
    network: Network
    link: CoordinatorLink
    money: Callable[[], Awaitable[Money]]
    store: Store
    artifacts: Artifacts
    workers: tuple[DeviceWorkers, ...]
    deployments: Deployments
    nursery: trio.Nursery
    """Outlives the jobs: workers that serve a model, and what ends them, run here."""
    now: Callable[[], float]
    terms: Terms
    access: Access
    served: ServedModels
