"""What each event of a job reads like. Pure."""

from __future__ import annotations

from p2p.jobs import JobMetrics
from p2p.pricing import format_tokens
from p2p.protocols.coordinator import JobUpdate
from p2p.session import events
from p2p.session.events import Event
from p2p.session.job import Evaluation, Job
from p2p.session.news import News, NewsKind
from p2p.vouchers import Voucher


def lines_about(event: Event, before: Job, after: Job) -> tuple[News, ...]:
    """Not yet numbered or dated; nothing for an event that changed nothing."""
    if before == after:
        return ()
    match event:
        case events.JobUpdated(update):
            return _about_update(update, before)
        case events.SegmentAnnounced(_, _, checkpoint, metrics):
            what = "served" if after.spec.serving is not None else f"trained{_measured(metrics)}"
            text = f"{after.spec.part_name} {checkpoint.segment + 1} of {after.spec.segments} {what}"
            return (News(NewsKind.CHECKPOINT, text, metrics=metrics),)
        case events.ResultAnnounced(_, _, result, metrics):
            text = f"trained; the model has {result.size} bytes{_measured(metrics)}"
            if after.spec.serving is not None:
                text = f"period {after.spec.segments} of {after.spec.segments} served"
            return (News(NewsKind.RESULT, text, metrics=metrics),)
        case events.PeerSaid(_, _, text):
            return (News(NewsKind.STAGE, text), *_about_state(before, after))
        case events.LeaseGranted():
            return _about_state(before, after)
        case events.JobQueued(text):
            return (News(NewsKind.NOTE, text),)
        case events.SegmentKept(_, checkpoint):
            text = f"checkpoint of segment {checkpoint.segment + 1} fetched and checked"
            return (News(NewsKind.CHECKPOINT, text),)
        case events.ResultKept(_, result):
            return (News(NewsKind.RESULT, f"model {result.blake3[:16]} fetched and checked", result=result),)
        case events.PeerAccused(_, code, text) if after.direct is not None:
            return (News(NewsKind.NOTE, f"the peer is left: {code}: {text}"), *_about_state(before, after))
        case events.ResultProven(_, result, voucher):
            what = f"model {result.blake3[:16]} fetched and checked"
            if after.spec.serving is not None:
                what = f"period {after.spec.segments}: the model answered"
            text = f"{what}; final voucher over {_tokens(voucher)}"
            return (News(NewsKind.RESULT, text, result=result),)
        case events.SegmentProven(_, checkpoint, voucher):
            what = f"checkpoint of segment {checkpoint.segment + 1} fetched and checked"
            if after.spec.serving is not None:
                what = f"period {checkpoint.segment + 1}: the model answered"
            return (News(NewsKind.CHECKPOINT, f"{what}; voucher over {_tokens(voucher)}"),)
        case events.PeerAccused(_, code, text):
            return (News(NewsKind.NOTE, f"reporting the peer to the coordinator: {code}: {text}"),)
        case events.PartEvaluated(evaluation):
            return (_about_evaluation(evaluation),)
        case events.ModelTried(trial):
            is_news = trial.untried and (before.trial is None or before.trial.untried != trial.untried)
            text = f"answers of the peer are not compared with the model here: {trial.untried}"
            return (News(NewsKind.NOTE, text),) if is_news else ()
        case events.CancelAsked():
            return (News(NewsKind.NOTE, "cancelling"), *_about_state(before, after))
        case events.PauseChanged(paused):
            return (News(NewsKind.NOTE, "pausing" if paused else "resuming"),)
        case events.RateChanged(rate):
            return (News(NewsKind.NOTE, f"learning rate {rate:g} from the peer's next step on"),)
        case _:
            return _about_money(event, after)


def _about_state(before: Job, after: Job) -> tuple[News, ...]:
    """For what the Engine decides itself."""
    if before.state is after.state:
        return ()
    return (News(NewsKind.STATE, after.text, state=after.state, result=after.result),)


def _about_evaluation(evaluation: Evaluation) -> News:
    part = evaluation.part.value
    if evaluation.failure:
        return News(NewsKind.NOTE, f"private {part} samples not evaluated: {evaluation.failure}")
    loss = "not finite" if evaluation.loss is None else f"{evaluation.loss:.4f}"
    accuracy = "" if evaluation.accuracy is None else f", accuracy {evaluation.accuracy:.3f}"
    found = f"loss {loss}{accuracy} on {evaluation.samples} samples"
    return News(NewsKind.RESULT, f"evaluated here on private {part} samples, step {evaluation.step}: {found}")


def _about_update(update: JobUpdate, before: Job) -> tuple[News, ...]:
    if update.metrics is not None and update.state is before.state:
        return ()  # the peer tells its own progress
    return (
        News(
            NewsKind.STATE,
            update.text,
            state=update.state,
            metrics=update.metrics,
            result=update.result,
            signature=update.signature,
        ),
    )


def _about_money(event: Event, after: Job) -> tuple[News, ...]:
    match event:
        case events.LeaseTaken(escrow):
            text = f"price checked; locking {format_tokens(escrow.amount)} in escrow {escrow.address}"
        case events.PaymentDropped(_, reason):
            text = f"not paid: {reason}"
        case events.EscrowPaid(address, signature):
            return (News(NewsKind.MONEY, f"escrow {address} is on the chain", signature=signature),)
        case events.EscrowRefused(address, reason):
            text = f"the coordinator does not count escrow {address} ({reason}); asking the money back"
        case events.EscrowReclaimed(address, signature):
            return (News(NewsKind.MONEY, f"escrow {address} is refunded", signature=signature),)
        case _:
            return ()
    return (News(NewsKind.MONEY, text),)


def _tokens(voucher: Voucher) -> str:
    return format_tokens(voucher.earned)


def _measured(metrics: JobMetrics) -> str:
    found = f": loss {metrics.loss:.4f}"
    for what in ("validation", "test"):
        accuracy = getattr(metrics, f"{what}_accuracy")
        if accuracy is not None:
            found += f", {what} accuracy {accuracy:.3f}"
    return found
