"""Where an unpaid job stands after each event, and what its Engine does next."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from p2p.identifiers import NO_WALLET, PeerId
from p2p.jobs import DataSummary, DeviceKind, FileRef, JobMetrics, JobSpec, JobState, StartWeights
from p2p.protocols.coordinator import Device, JobUpdate, Lease, LeaseRef, PeerRecord, SignedRecord
from p2p.protocols.job import ConfirmSegments
from p2p.session import events, plan
from p2p.session.direct import MAX_FAILURES, advance
from p2p.session.events import Event
from p2p.session.job import DECODER, ENCODER, Checkpoint, Direct, Grant, Job, lease_ref
from p2p.session.news import NewsKind
from p2p.session.story import lines_about

PEER, OTHER = "12D3KooWPeerPeerPeer", "12D3KooWotherother"
ADDRESSES = ("/ip4/10.0.0.2/tcp/4001",)
METRICS = JobMetrics(1, 9, 0, 0.5)
SEGMENTS = 3


def file(letter: str) -> FileRef:
    return FileRef(letter * 64, letter * 63 + "0", 100)


def new_job(wanted: str = "") -> Job:
    data = DataSummary(file("d"), 100, (1, 8, 8), "float32", 10)
    spec = JobSpec("ab" * 32, "cd" * 32, data, 0, NO_WALLET, SEGMENTS)
    return Job(spec, "job", "", 10, 9, 0.0, direct=Direct(wanted))


def lease(number: int = 1, peer_id: str = PEER, first: int = 0) -> Lease:
    record = SignedRecord(b"record", bytes(64))
    return Lease(f"lease-{number}", number, peer_id, 0, 0, first, record, 0.0)


def granted(number: int = 1, peer_id: str = PEER, first: int = 0) -> events.LeaseGranted:
    return events.LeaseGranted(lease(number, peer_id, first), ADDRESSES)


def finished(segment: int, sequence: int, number: int = 1) -> events.SegmentAnnounced:
    ref = lease_ref(lease(number))
    return events.SegmentAnnounced(ref, sequence, Checkpoint(segment, file("abc"[segment])), METRICS)


def kept(segment: int, number: int = 1) -> events.SegmentKept:
    return events.SegmentKept(lease_ref(lease(number)), Checkpoint(segment, file("abc"[segment])))


def after(*story: Event, job: Job | None = None) -> Job:
    job = job or new_job()
    for event in story:
        job = advance(job, event)
        assert DECODER.decode(ENCODER.encode(job)) == job
    return job


REF = lease_ref(lease())
RESULT = (
    events.ResultAnnounced(REF, 9, file("e"), METRICS),
    events.ResultKept(REF, file("e")),
)


def test_a_peer_gets_the_weights_to_begin_with_for_the_first_segment_alone() -> None:
    plain = new_job()
    spec = replace(plain.spec, weights=StartWeights(file("f"), False))
    job = after(granted(), job=replace(plain, spec=spec))
    assert spec.brought == (file("d"), file("f"))
    assert plan.files_for(job, PEER) == {file("d").manifest, file("f").manifest}
    assert (job.begins_from(0), new_job().begins_from(0)) == (file("f"), None)
    later = after(finished(0, 1), kept(0), job=job)
    assert later.begins_from(1) == file("a")
    assert plan.own_files(later) == {file(letter).blake3 for letter in "daf"}


def test_a_new_job_asks_for_a_peer_and_a_granted_one_talks_to_it() -> None:
    assert plan.next_steps(new_job()) == (plan.AskPeer(),)
    assert plan.peer_to_talk_to(new_job()) is None
    job = after(granted())
    assert (job.state, job.accepted, job.peer_id) == (JobState.RUNNING, True, PEER)
    assert plan.next_steps(job) == ()
    assert plan.peer_to_talk_to(job) == lease()
    assert plan.files_for(job, PEER) == {file("d").manifest}
    assert plan.files_for(job, OTHER) == frozenset()


def test_segments_may_be_skipped_but_never_go_back() -> None:
    job = after(granted(), finished(1, 2))
    assert plan.next_steps(job) == (plan.ProveSegment(Checkpoint(1, file("b"))),)
    assert plan.out_of_order(job, 2) is None
    done = after(kept(1), job=job)
    assert (done.segments_done, done.announced) == (2, None)
    assert plan.out_of_order(done, 2) == "announced segment 2 of 3, allowed 3"
    assert after(finished(0, 3), job=done).announced is None
    assert plan.out_of_order(done, SEGMENTS + 1) is not None


def test_what_is_held_is_confirmed_once() -> None:
    job = after(granted(), finished(0, 1), kept(0))
    messages, told = plan.things_to_tell(job, plan.Told(paused=False))
    assert messages == (ConfirmSegments(1),)
    assert plan.things_to_tell(job, told)[0] == ()


def test_the_peers_last_word_completes_a_job_whose_model_is_here() -> None:
    job = after(granted(), *RESULT)
    assert (job.state, plan.is_finished(job)) == (JobState.RESULT_READY, False)
    assert plan.things_to_tell(job, plan.Told(paused=False))[0] == (ConfirmSegments(SEGMENTS),)
    done = after(events.PeerSaid(REF, 10, "closed"), job=job)
    assert (done.state, done.result, done.peer_id) == (JobState.COMPLETED, file("e"), PEER)
    assert plan.is_finished(done) and plan.next_steps(done) == ()
    gone = after(events.PeerAccused(REF, "unreachable", "away"), job=job)
    assert gone.state is JobState.COMPLETED


def test_a_restarted_peer_is_asked_again_from_the_newest_checkpoint() -> None:
    job = after(granted(), finished(0, 1), kept(0), events.PeerSaid(REF, 2, "restarted", True))
    assert (job.state, job.lease) == (JobState.RETRYING, None)
    assert plan.next_steps(job) == (plan.AskPeer(),)
    assert plan.first_segment_left(job) == 1
    again = after(granted(2, first=1), job=job)
    assert again.hold == Grant(LeaseRef("lease-2", 2), PEER, ADDRESSES, 1, 1)
    start = Checkpoint(0, file("a"))
    assert again.checkpoint_before(1) == start
    assert plan.files_for(again, PEER) == {file("d").manifest, start.file.manifest}


def test_a_late_word_of_an_earlier_lease_changes_nothing() -> None:
    job = after(granted(), events.PeerSaid(REF, 2, "restarted", True), granted(2))
    for event in (
        events.PeerSaid(REF, 9, "failed", False),
        events.PeerAccused(REF, "lost", ""),
        finished(0, 9),
    ):
        assert after(event, job=job) == job


def test_a_failure_that_no_other_try_helps_is_the_end() -> None:
    job = after(granted(), events.PeerSaid(REF, 1, "the peer failed: graph", False))
    assert (job.state, job.is_over, plan.is_finished(job)) == (JobState.FAILED, True, True)
    assert plan.next_steps(job) == ()


def test_failures_without_a_segment_in_between_are_bounded() -> None:
    job = new_job()
    for number in range(1, MAX_FAILURES + 2):
        assert job.state in (JobState.SUBMITTED, JobState.RETRYING)
        ref = lease_ref(lease(number))
        job = after(granted(number), events.PeerSaid(ref, 1, "worker died", True), job=job)
    assert job.state is JobState.FAILED


def test_a_segment_in_between_begins_the_count_anew() -> None:
    job = after(granted(), events.PeerSaid(REF, 1, "died", True), granted(2), finished(0, 1, 2), kept(0, 2))
    assert job.direct is not None and job.direct.failures == 0


def test_a_peer_that_lies_is_asked_no_more() -> None:
    lied = events.PeerAccused(REF, "corrupt_result", "not finite")
    anybody = after(granted(), lied)
    assert anybody.state is JobState.RETRYING
    assert plan.in_order_of_choice(anybody, [Choice(PEER), Choice(OTHER)]) == [Choice(OTHER)]
    assert after(granted(), lied, job=new_job(PEER)).state is JobState.FAILED


def test_a_peer_out_of_reach_is_waited_for_only_where_it_alone_may_do_the_job() -> None:
    one, anybody = after(granted(), job=new_job(PEER)), after(granted())
    assert plan.is_patient(one) and not plan.is_patient(anybody)
    assert not plan.is_patient(after(events.CancelAsked(), job=one))
    assert not plan.is_patient(after(*RESULT, job=one))
    assert not plan.is_patient(replace(new_job(), direct=None))


def test_a_cancelled_job_ends_at_once_without_a_peer_and_by_its_word_with_one() -> None:
    assert after(events.CancelAsked()).state is JobState.CANCELLED
    job = after(granted(), events.CancelAsked())
    assert (job.state, job.cancelling) == (JobState.RUNNING, True)
    assert after(events.PeerSaid(REF, 1, "stopped", False), job=job).state is JobState.CANCELLED
    assert after(events.PeerAccused(REF, "unreachable", ""), job=job).state is JobState.CANCELLED


def test_a_checkpoint_that_the_peer_has_no_more_is_let_go() -> None:
    job = after(granted(), finished(0, 1))
    assert job.announced is not None
    assert after(events.SegmentMissed(job.announced), job=job).announced is None
    newer = after(finished(1, 2), events.SegmentMissed(job.announced), job=job)
    assert newer.announced == Checkpoint(1, file("b"))


@dataclass(frozen=True)
class Choice:
    peer_id: PeerId | str
    free: int = 1
    speed: int = 10

    @property
    def record(self) -> PeerRecord:
        devices = (Device(DeviceKind.CPU, "cpu", 1, self.speed),)
        return PeerRecord(str(self.peer_id), 1, 1.0, (), devices, 1, (), 0, NO_WALLET, NO_WALLET, "1")


def test_a_free_device_comes_before_a_fast_one() -> None:
    busy, slow, fast = Choice("a" * 20, 0, 99), Choice("b" * 20, 1, 1), Choice("c" * 20, 2, 50)
    assert plan.in_order_of_choice(new_job(), [busy, slow, fast]) == [fast, slow, busy]  # type: ignore[type-var]


def test_the_wanted_peer_is_looked_for_where_it_was_and_where_the_user_said() -> None:
    job = replace(new_job(), direct=Direct(PEER, ("/ip4/10.0.0.9/tcp/1",)))
    assert plan.known_addresses(after(granted(), job=job)) == (*ADDRESSES, "/ip4/10.0.0.9/tcp/1")
    assert plan.known_addresses(new_job()) == ()


def test_the_story_says_who_trains_and_how_it_ended() -> None:
    job = new_job()
    told = []
    for event in (granted(), finished(0, 1), kept(0), *RESULT, events.PeerSaid(REF, 10, "closed")):
        told += lines_about(event, job, advance(job, event))
        job = advance(job, event)
    states = [(news.state, news.text) for news in told if news.kind is NewsKind.STATE]
    assert states == [
        (JobState.RUNNING, f"peer {PEER} trains it, unpaid"),
        (JobState.COMPLETED, "the model is here"),
    ]
    assert not any("voucher" in news.text or "coordinator" in news.text for news in told)


@pytest.mark.parametrize("state", [JobState.SUBMITTED, JobState.COMPLETED])
def test_a_paid_job_never_asks_a_peer_itself(state: JobState) -> None:
    paid = replace(new_job(), direct=None, state=state, accepted=True)
    assert plan.AskPeer() not in plan.next_steps(paid)
    with pytest.raises(TypeError, match="LeaseGranted is no event of a job"):
        advance(paid, granted())


def test_no_word_of_a_coordinator_makes_an_unpaid_job_pay() -> None:
    job = after(granted())
    update = JobUpdate(1, 0.0, JobState.AWAITING_FUNDS, "pay", lease(7))
    assert after(events.JobUpdated(update), job=job) == job


def test_other_peers_that_proved_to_have_the_dataset_are_named_to_the_next() -> None:
    proven = after(granted(), kept(0), job=replace(new_job(), created_at=1.0))
    idle = after(granted(peer_id=OTHER), job=replace(new_job(), created_at=2.0))
    mine = after(granted(number=2, peer_id=OTHER), job=replace(new_job(), created_at=3.0))
    holders = plan.holders_of_data([mine, idle, proven], mine, limit=3)
    assert [(holder.peer_id, holder.addresses) for holder in holders] == [(PEER, ADDRESSES)]
    assert plan.holders_of_data([proven], proven, limit=3) == (), "the peer itself is not named to it"
    data = replace(mine.spec.data, file=file("f"))
    elsewhere = replace(mine, spec=replace(mine.spec, data=data))
    assert plan.holders_of_data([proven, idle], elsewhere, limit=3) == ()
