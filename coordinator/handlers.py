"""Answers the calls of /cyxwiz/coordinator/1. Checks who asks and how often; decides by the cores."""

from __future__ import annotations

from coordinator import engine_calls, money_calls, peer_calls
from coordinator.services import SOFTWARE, Services
from p2p.errors import RemoteFailureError
from p2p.identifiers import PROTOCOL_VERSION, PeerId
from p2p.network import Network
from p2p.protocols.coordinator import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    AnswerOffer,
    CancelJob,
    CoordinatorAnswer,
    CoordinatorCall,
    DeliverVoucher,
    EscrowCreated,
    EstimateJob,
    ExplainJob,
    FindPeers,
    Heartbeat,
    Hello,
    ListJobs,
    PollJob,
    PollOrders,
    RegisterPeer,
    ReportFailed,
    ReportMetrics,
    ReportPeer,
    ReportResult,
    ReportStarted,
    RequestToken,
    SubmitJob,
    Welcome,
)
from p2p.router import serve_calls

_COSTS = {
    EstimateJob: 10.0,
    SubmitJob: 10.0,
    EscrowCreated: 20.0,
    ReportMetrics: 2.0,
    RegisterPeer: 10.0,
    FindPeers: 20.0,
    ExplainJob: 20.0,
    RequestToken: 5.0,
}
"""Of a caller's calls. An escrow that is not there yet is looked for on chain for a while; questions about
peers go over all of them."""


def serve(network: Network, services: Services) -> None:
    async def answer(caller: PeerId, call: CoordinatorCall, body: bytes) -> CoordinatorAnswer:
        return await handle(services, caller, call, body)

    serve_calls(network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, answer)


async def handle(services: Services, caller: PeerId, call: CoordinatorCall, body: bytes) -> CoordinatorAnswer:
    """Raises RemoteFailureError for what is refused."""
    if not services.rates.allow(caller, services.monotonic(), _COSTS.get(type(call), 1.0)):
        raise RemoteFailureError("busy", f"more than {services.limits.calls_per_s:g} calls a second")
    if body and not isinstance(call, EstimateJob | SubmitJob):
        raise RemoteFailureError(
            "invalid", f"{type(call).__name__} with {len(body)} bytes beside it, allowed 0"
        )
    match call:
        case Hello():
            return _hello(services, call)
        case EstimateJob():
            return await engine_calls.estimate_job(services, caller, call, body)
        case SubmitJob():
            return await engine_calls.submit_job(services, caller, call, body)
        case EscrowCreated():
            return await money_calls.escrow_created(services, caller, call)
        case DeliverVoucher():
            return await money_calls.deliver_voucher(services, caller, call)
        case RegisterPeer() | Heartbeat() | PollOrders() | AnswerOffer():
            return await _availability(services, caller, call)
        case ReportStarted() | ReportMetrics() | ReportResult() | ReportFailed():
            return await _report(services, caller, call)
        case _:
            return await _question(services, caller, call)


def _hello(services: Services, call: Hello) -> Welcome:
    if call.protocol_version != PROTOCOL_VERSION:
        raise RemoteFailureError(
            "refused", f"protocol version {call.protocol_version}, this coordinator speaks {PROTOCOL_VERSION}"
        )
    return Welcome(
        protocol_version=PROTOCOL_VERSION,
        software=SOFTWARE,
        chain=services.chain_info,
        heartbeat_s=services.heartbeat_s,
        lease_s=services.lease_s,
        now=services.now(),
    )


async def _availability(
    services: Services, caller: PeerId, call: RegisterPeer | Heartbeat | PollOrders | AnswerOffer
) -> CoordinatorAnswer:
    match call:
        case RegisterPeer():
            return await peer_calls.register_peer(services, caller, call)
        case Heartbeat():
            return await peer_calls.heartbeat(services, caller, call)
        case PollOrders():
            return await peer_calls.poll_orders(services, caller, call)
        case AnswerOffer():
            return await peer_calls.answer_offer(services, caller, call)


async def _report(
    services: Services, caller: PeerId, call: ReportStarted | ReportMetrics | ReportResult | ReportFailed
) -> CoordinatorAnswer:
    match call:
        case ReportStarted():
            return await peer_calls.report_started(services, caller, call)
        case ReportMetrics():
            return await peer_calls.report_metrics(services, caller, call)
        case ReportResult():
            return await peer_calls.report_result(services, caller, call)
        case ReportFailed():
            return await peer_calls.report_failed(services, caller, call)


async def _question(
    services: Services,
    caller: PeerId,
    call: FindPeers | PollJob | ListJobs | ReportPeer | CancelJob | RequestToken | ExplainJob,
) -> CoordinatorAnswer:
    match call:
        case FindPeers():
            return await engine_calls.find_peers(services, caller, call)
        case PollJob():
            return await engine_calls.poll_job(services, caller, call)
        case ListJobs():
            return await engine_calls.list_jobs(services, caller, call)
        case ReportPeer():
            return await engine_calls.report_peer(services, caller, call)
        case CancelJob():
            return await engine_calls.cancel_job(services, caller, call)
        case RequestToken():
            return await engine_calls.request_token(services, caller, call)
        case ExplainJob():
            return await engine_calls.explain_job(services, caller, call)
