"""What peers ask: register, beat, poll for orders, and report on the leases that they hold."""

from __future__ import annotations

import math

import trio

from coordinator.answers import as_many_as_fit
from coordinator.database import Write
from coordinator.job import OfferAccepted, OfferDeclined, ResultReported, WorkFailed, WorkStarted
from coordinator.services import Services, refusing
from p2p.errors import RecordRefusedError, RemoteFailureError
from p2p.identifiers import PeerId
from p2p.jobs import JobMetrics
from p2p.protocols import Done
from p2p.protocols.coordinator import (
    AnswerOffer,
    Heartbeat,
    HeartbeatAnswer,
    OfferJob,
    Order,
    Orders,
    PollOrders,
    RegisterPeer,
    ReportFailed,
    ReportMetrics,
    ReportResult,
    ReportStarted,
)

MAX_ORDERS = 100
CURVE_POINTS = 4096
"""Of a longer training, only every so many steps are kept."""


async def register_peer(services: Services, caller: PeerId, call: RegisterPeer) -> Done:
    try:
        services.registry.register(caller, call.record, services.now())
    except RecordRefusedError as error:
        raise RemoteFailureError("refused", str(error)) from error
    services.matching.wake()
    return Done()


async def heartbeat(services: Services, caller: PeerId, call: Heartbeat) -> HeartbeatAnswer:
    """Soft state, so nothing is written."""
    known = services.registry.get(caller)
    was_online = services.registry.is_online(caller, services.now())
    registered = services.registry.heartbeat(caller, call.running, call.capacity, services.now())
    unknown = services.leases.renew(caller, call.leases, services.monotonic())
    if not was_online or known is None or known.capacity != call.capacity:
        services.matching.wake()
    return HeartbeatAnswer(unknown, registered, services.tokens.revoked_at(caller, services.now()))


async def poll_orders(services: Services, caller: PeerId, call: PollOrders) -> Orders:
    """Polling past an order is how it is acknowledged; it is not sent again."""
    store, bell = services.ledger.store, services.ledger.bell
    newest = await store.read(store.database.newest_order)
    after = call.after if call.after <= newest else 0  # numbers of another coordinator's life
    if after:
        store.enqueue(Write(services.now(), orders_seen=(caller, after)))
    key = f"orders/{caller}"
    with services.long_poll(caller), bell.listening(key), trio.move_on_after(call.wait_ms / 1000):
        while True:
            waiter = bell.waiter(key)
            orders = await _live_orders(services, caller, after)
            if orders:
                return Orders(orders, orders[-1].sequence)
            await waiter.wait()
    return Orders((), after)


async def _live_orders(services: Services, caller: PeerId, after: int) -> tuple[Order, ...]:
    """Without offers that are over."""
    store = services.ledger.store
    orders = await store.read(store.database.orders, caller, after, MAX_ORDERS)
    return as_many_as_fit(
        order
        for order in orders
        if not isinstance(order.order, OfferJob) or services.leases.job_of(order.order.lease) is not None
    )


async def answer_offer(services: Services, caller: PeerId, call: AnswerOffer) -> Done:
    job, grant = services.leased_job(caller, call.lease)
    now = services.now()
    if not grant.accepted:
        services.registry.measured(caller, max(0.0, now - grant.granted_at))
    event: OfferAccepted | OfferDeclined
    if call.accepted:
        event = OfferAccepted(now, call.lease, now + services.policy.fund_s)
    else:
        event = OfferDeclined(now, call.lease, call.reason)
    with refusing():
        await services.ledger.apply(job.job_id, event)
    return Done()


async def report_started(services: Services, caller: PeerId, call: ReportStarted) -> Done:
    job, _ = services.leased_job(caller, call.lease)
    with refusing():
        await services.ledger.apply(job.job_id, WorkStarted(services.now(), call.lease))
    return Done()


async def report_metrics(services: Services, caller: PeerId, call: ReportMetrics) -> Done:
    job, _ = services.leased_job(caller, call.lease)
    room = services.limits.metrics - services.ledger.latest(job.job_id)
    kept = [point for point in call.metrics if _is_kept(point)][: max(0, room)]
    if kept:
        await services.ledger.add_metrics(job.job_id, kept)
    return Done()


def _is_kept(point: JobMetrics) -> bool:
    if point.validation_loss is not None or point.test_accuracy is not None:
        return True
    every = max(1, math.ceil(point.total_steps / CURVE_POINTS))
    return point.step % every == 0 or point.step == point.total_steps


async def report_result(services: Services, caller: PeerId, call: ReportResult) -> Done:
    job, _ = services.leased_job(caller, call.lease)
    event = ResultReported(services.now(), call.lease, call.result, call.metrics)
    with refusing():
        await services.ledger.apply(job.job_id, event)
    return Done()


async def report_failed(services: Services, caller: PeerId, call: ReportFailed) -> Done:
    job, _ = services.leased_job(caller, call.lease)
    event = WorkFailed(services.now(), call.lease, call.code, call.text, call.retryable)
    with refusing():
        await services.ledger.apply(job.job_id, event)
    return Done()
