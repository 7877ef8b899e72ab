"""Whatever happens in whatever order: money is conserved, effects are unique, the log is the state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.errors import IllegalTransitionError
from coordinator.job import (
    CancelRequested,
    EscrowFunded,
    FundingExpired,
    Job,
    JobEvent,
    JobRevived,
    JobSubmitted,
    LeaseLost,
    OfferAccepted,
    OfferDeclined,
    OfferExpired,
    PatienceExpired,
    PeerReported,
    ResultReported,
    StrayEscrowFound,
    WorkFailed,
    WorkStarted,
)
from coordinator.payments import (
    OpenClaimWindow,
    PaymentConcluded,
    PaymentDue,
    PaymentEffect,
    PaymentState,
    ReturnRest,
    SettleEscrow,
    VoucherTaken,
)
from coordinator.state import Policy, next_due, replay, transition
from p2p.identifiers import PeerId
from p2p.jobs import JobState
from p2p.protocols.coordinator import LeaseRef
from p2p.vouchers import Voucher
from tests.property.effort import examples

AMOUNT = 1000


class Escrow:
    """One escrow account as the program keeps it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.earned = 0
        self.requested = False
        self.closed: PaymentState | None = None
        self.paid_out = 0
        self.newest: Voucher | None = None
        self.in_time = 0
        """Vouched for, at the coordinator, before the claim window ended."""

    def settle(self, voucher: Voucher) -> str:
        if self.closed is not None:
            return "closed"
        if voucher.earned > self.earned:
            self.paid_out += voucher.earned - self.earned
            self.earned = voucher.earned
        if voucher.final and self.earned == AMOUNT:
            self.closed = PaymentState.SETTLED
        elif voucher.final:
            self.requested = True
        return ""

    def refund(self) -> str:
        if self.closed is not None:
            return ""
        if not self.requested:
            return "too early"
        self.paid_out += AMOUNT - self.earned
        self.closed = PaymentState.REFUNDED
        return ""

    def perform(self, effect: PaymentEffect) -> str:
        match effect:
            case SettleEscrow(_, _, voucher):
                return self.settle(voucher)
            case OpenClaimWindow():
                self.requested = True
                return ""
            case ReturnRest():
                return self.refund()


class Story:
    """A job under events that a seed picks, with the chain that its effects act on."""

    def __init__(self, make: Any, draw: Any) -> None:
        self.make = make
        self.draw = draw
        self.now = make.now
        first: JobEvent = JobSubmitted(self.now, PeerId("engine"), make.spec(), make.cost)
        self.job, _ = transition(None, first)
        self.log: list[JobEvent] = [first]
        self.chain: dict[str, Escrow] = {}
        self.due: list[PaymentEffect] = []
        self.keys: set[str] = set()

    def apply(self, event: JobEvent) -> None:
        before = self.job
        try:
            self.job, effects = transition(self.job, event)
        except IllegalTransitionError:
            assert self.job is before
            return
        self.log.append(event)
        if self.job.state is JobState.REFUNDED is not before.state:
            assert all(payment.closed for payment in self.job.payments)
        for effect in effects:
            if isinstance(effect, SettleEscrow | OpenClaimWindow | ReturnRest):
                assert effect.key not in self.keys, "one key is given out once"
                self.keys.add(effect.key)
                self.due.append(effect)
        self.check()

    def check(self) -> None:
        job = self.job
        in_flight = [effect.escrow for effect in self.due]
        assert len(in_flight) == len(set(in_flight)), "one effect of an escrow at a time"
        for payment in job.payments:
            assert payment.earned + payment.returned <= payment.amount
            if payment.closed is not None:
                assert payment.earned + payment.returned == payment.amount
                assert payment.pending is None
        if job.state is JobState.SETTLED:
            assert any(payment.earned == payment.amount for payment in job.payments)
        assert 0 <= job.segments_done <= job.spec.segments
        if job.waits_for_peer:
            assert job.segments_done < job.spec.segments

    def step(self) -> None:
        self.now += self.draw(st.sampled_from([0.1, 1.0, 30.0, 70.0]))
        options = [
            self.lifecycle,
            self.lifecycle,
            self.trouble,
            self.voucher,
            self.chain_works,
            self.time_passes,
        ]
        self.draw(st.sampled_from(options))()

    def lease(self) -> LeaseRef:
        grant = self.job.grant
        return grant.ref if grant is not None else LeaseRef("gone", 0)

    def lifecycle(self) -> None:
        lease, make = self.lease(), self.make
        name = self.draw(st.sampled_from(["peer", "other", "third"]))
        offer = make.offer(
            name,
            at=self.now,
            lease_id=f"lease-{len(self.log)}",
            amount=AMOUNT,
            first_segment=self.job.segments_done,
        )
        escrow = f"escrow-{len(self.chain)}"
        payment = make.payment(escrow=escrow, fencing=lease.fencing, first_segment=self.job.segments_done)
        funded = EscrowFunded(self.now, lease, payment, "s" * 88)
        choices: list[JobEvent] = [
            offer,
            OfferAccepted(self.now, lease, self.now + 60),
            funded,
            WorkStarted(self.now, lease),
            ResultReported(self.now, lease, make.result, make.metrics),
            JobRevived(self.now),
        ]
        fitting = {
            JobState.SUBMITTED: offer,
            JobState.RETRYING: offer,
            JobState.MATCHED: choices[1],
            JobState.AWAITING_FUNDS: funded,
            JobState.FUNDED: choices[3],
            JobState.RUNNING: choices[4],
        }
        likely = fitting.get(self.job.state, offer)
        event = self.draw(st.sampled_from([likely, likely, likely, *choices]))
        known = len(self.log)
        self.apply(event)
        if event is funded and len(self.log) > known:
            self.chain[escrow] = Escrow(escrow)

    def trouble(self) -> None:
        lease = self.lease()
        code = self.draw(st.sampled_from(["crash", "engine_absent", "corrupt_result"]))
        events: list[JobEvent] = [
            OfferDeclined(self.now, lease, "no"),
            OfferExpired(self.now, lease),
            FundingExpired(self.now, lease),
            LeaseLost(self.now, lease),
            WorkFailed(self.now, lease, code, "text", self.draw(st.booleans())),
            PeerReported(self.now, lease, code, "text"),
            CancelRequested(self.now),
            PatienceExpired(self.now),
        ]
        stray = f"escrow-{len(self.chain)}"
        events.append(StrayEscrowFound(self.now, self.make.payment(escrow=stray), "late"))
        event = self.draw(st.sampled_from(events))
        if isinstance(event, StrayEscrowFound):
            self.chain[stray] = Escrow(stray)
        self.apply(event)

    def voucher(self) -> None:
        if not self.chain:
            return
        escrow = self.chain[self.draw(st.sampled_from(sorted(self.chain)))]
        earned = self.draw(st.sampled_from([250, 500, 750, AMOUNT]))
        final = self.draw(st.booleans()) and earned >= 500
        given_before = escrow.newest.earned if escrow.newest is not None else 0
        if earned <= given_before:
            return
        escrow.newest = Voucher(escrow.address, earned, final, b"s" * 64, earned // 250)
        known = len(self.log)
        payment = self.job.payment(escrow.address)
        self.apply(VoucherTaken(self.now, escrow.address, escrow.newest))
        taken = len(self.log) > known
        if taken and payment is not None and self.now < (payment.window_ends or 1e12):
            escrow.in_time = earned
        if self.draw(st.integers(0, 4)) == 0:  # the node goes to the chain by itself
            escrow.settle(escrow.newest)

    def chain_works(self) -> None:
        if not self.due:
            return
        effect = self.due.pop(self.draw(st.integers(0, len(self.due) - 1)))
        escrow = self.chain[effect.escrow]
        refused = self.draw(st.integers(0, 5)) == 0
        refusal = "no fees" if refused else escrow.perform(effect)
        lags = not refused and self.draw(st.integers(0, 5)) == 0
        self.apply(
            PaymentConcluded(
                at=self.now,
                escrow=effect.escrow,
                key=effect.key,
                earned=0 if lags else escrow.earned,
                closed=None if lags else escrow.closed,
                refund_requested=escrow.requested and not lags,
                signature="" if refusal else "t" * 88,
                refusal=refusal,
            )
        )

    def time_passes(self) -> None:
        due = next_due(self.job, Policy())
        if due is not None and due[0] < self.now + 1000:
            self.now = max(self.now, due[0])
            self.apply(due[1])

    def finish(self) -> None:
        """Everybody stops; what is owed is carried out."""
        self.apply(CancelRequested(self.now))
        for _ in range(200):
            self.now += 1.0
            while self.due:
                effect = self.due.pop(0)
                escrow = self.chain[effect.escrow]
                refusal = escrow.perform(effect)
                self.apply(
                    PaymentConcluded(
                        at=self.now,
                        escrow=effect.escrow,
                        key=effect.key,
                        earned=escrow.earned,
                        closed=escrow.closed,
                        refund_requested=escrow.requested,
                        refusal=refusal,
                    )
                )
            if self.job.is_closed:
                return
            self.time_passes()


@settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), steps=st.integers(1, 60))
def test_money_is_conserved_and_every_job_ends(make: Any, data: st.DataObject, steps: int) -> None:
    story = Story(make, data.draw)
    for _ in range(steps):
        story.step()
    story.finish()
    assert story.job.is_closed
    for payment in story.job.payments:
        escrow = story.chain[payment.escrow]
        assert escrow.closed is not None, "nobody's money stays locked"
        assert escrow.paid_out == AMOUNT, "paid once, and all of it"
        assert payment.earned == escrow.earned
        assert escrow.earned >= escrow.in_time, "what was vouched for in time is paid"


@settings(
    max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), steps=st.integers(1, 40))
def test_the_replayed_log_is_the_live_state(make: Any, data: st.DataObject, steps: int) -> None:
    story = Story(make, data.draw)
    for _ in range(steps):
        story.step()
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(story.log), type=list[JobEvent])
    assert replay(stored) == story.job
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(story.job), type=Job) == story.job


def test_a_due_payment_event_before_its_time_changes_nothing(make: Any) -> None:
    job = make.submitted()
    with pytest.raises(IllegalTransitionError):
        transition(job, PaymentDue(1.0, "e" * 40))
