"""What the peer does in each connection to its coordinator: registers, beats, takes orders."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec

import structlog
import trio

from p2p.protocols import Done
from p2p.protocols.coordinator import (
    ChainInfo,
    Device,
    Heartbeat,
    HeartbeatAnswer,
    Orders,
    PeerRecord,
    PollOrders,
    RegisterPeer,
    Welcome,
)
from p2p.records import sign_record
from peer.devices import OfferedDevice
from peer.services import Services
from peer.table import JobTable

log = structlog.get_logger(__name__)

RECORD_LIFETIME_S = 600.0
POLL_WAIT_MS = 10_000
POLL_MARGIN_S = 10.0
MIN_HEARTBEAT_S = 0.1
FORMATS = ("cyxmodel",)
SERVING_RUNTIMES = {"cyxmodel": "torch", "onnx": "onnxruntime", "gguf": "llama_cpp"}


def served_formats() -> tuple[str, ...]:
    """What the workers of this machine can serve; nothing is imported for it."""
    return tuple(name for name, runtime in SERVING_RUNTIMES.items() if find_spec(runtime) is not None)


@dataclass(frozen=True, slots=True)
class Offer:
    """The machine's side of the record."""

    devices: tuple[OfferedDevice, ...]
    ram_bytes: int
    """For one job."""
    version: str


class Registration:
    """``run`` is the session of a ``CoordinatorLink``; the orders' number outlives one session."""

    def __init__(
        self,
        services: Services,
        table: JobTable,
        offer: Offer,
        use_chain: Callable[[ChainInfo], Awaitable[None]],
    ) -> None:
        self._services = services
        self._table = table
        self._offer = offer
        self._use_chain = use_chain
        self._after = 0
        self._addresses: tuple[str, ...] = ()
        """Those of the newest record that the coordinator has."""

    async def run(self, welcome: Welcome) -> None:
        """Until the line is lost: raises P2PError, alone or in a group."""
        await self._use_chain(welcome.chain)
        await self._register()
        self._services.link.mark_up()
        log.info("registered", coordinator_id=self._services.link.coordinator_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat, max(MIN_HEARTBEAT_S, welcome.heartbeat_s))
            await self._take_orders()

    async def _register(self) -> None:
        services = self._services
        record = self.record()
        signed = sign_record(record, services.network.sign)
        await services.link.ask(RegisterPeer(signed), Done)
        self._addresses = record.addresses

    def record(self) -> PeerRecord:
        services, now = self._services, self._services.now()
        return PeerRecord(
            peer_id=services.network.peer_id,
            sequence=int(now * 1000),
            expires_at=now + RECORD_LIFETIME_S,
            addresses=tuple(services.network.addresses()),
            devices=tuple(
                Device(device.kind, device.name, device.memory_bytes, speed)
                for device, speed in zip(self._offer.devices, services.terms.flops_per_s, strict=True)
            ),
            ram_bytes=self._offer.ram_bytes,
            formats=FORMATS,
            price_per_hour=services.terms.price_per_hour,
            node_wallet=services.terms.node_wallet,
            payout_wallet=services.terms.payout_wallet,
            version=self._offer.version,
            deliveries=services.terms.deliveries,
            serves=services.terms.serving.formats,
        )

    async def _beat(self, every_s: float) -> None:
        renew_at = self._services.now() + RECORD_LIFETIME_S / 2
        while True:
            devices = self._table.devices
            beat = Heartbeat(devices.running, devices.count, self._table.leases())
            timeout_s = max(2.0, 4 * every_s)
            answer = await self._services.link.ask(beat, HeartbeatAnswer, timeout_s)
            self._services.access.learn_revoked(answer.revoked)
            for lease in answer.unknown:
                await self._table.revoke(lease, "the coordinator has ended it")
            moved = self._addresses != tuple(self._services.network.addresses())
            if moved or not answer.registered or self._services.now() > renew_at:
                await self._register()
                renew_at = self._services.now() + RECORD_LIFETIME_S / 2
            await trio.sleep(every_s)

    async def _take_orders(self) -> None:
        while True:
            poll = PollOrders(self._after, POLL_WAIT_MS)
            timeout_s = POLL_WAIT_MS / 1000 + POLL_MARGIN_S
            answer = await self._services.link.ask(poll, Orders, timeout_s)
            for order in sorted(answer.orders, key=lambda order: order.sequence):
                await self._table.take_order(order.order)
                self._after = max(self._after, order.sequence)
            if answer.latest < self._after:  # the coordinator counts anew
                self._after = answer.latest
