"""Which peer gets which job, and why. Pure: filters, then ranks, and keeps every reason.

First what a job cannot do without (device, memory, price, lists, bans), then a weighted score of
reputation, free capacity, price, uptime and measured answer time. Users take turns: whoever has the
least running goes first, so a burst of one never starves another.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from coordinator.job import Cost, Exclusion
from coordinator.registry import PeerEntry
from coordinator.reputation import PROVEN_JOBS, Standing, score, tier
from p2p.identifiers import UNITS_PER_TOKEN, JobId, PeerId
from p2p.jobs import Delivery, Requirements
from p2p.pricing import estimated_duration_ms, format_tokens, price_of, remaining_amount
from p2p.protocols.coordinator import Device, PeerQuote, RejectedPeer

WEIGHTS = {"reputation": 0.45, "free capacity": 0.2, "price": 0.2, "uptime": 0.1, "answer time": 0.05}
SLOW_ANSWER_S = 2.0
UNMEASURED = 0.5
SMALL_JOB = 10 * UNITS_PER_TOKEN
LONGEST_S = 91 * 24 * 3600
"""Of a job: its escrow lives four times as long, and the program allows a year."""
MAX_EXPLAINED = 50
MAX_TRIES = 20
"""Waiting jobs of one user that one pass looks at."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a job asks of a peer."""

    cost: Cost
    requirements: Requirements
    segments: int = 1
    first_segment: int = 0
    affordable: int = 2**63 - 1
    """Units of the budget that are left."""
    excluded: tuple[Exclusion, ...] = ()
    delivery: Delivery = Delivery.FILE
    serves: str = ""
    """The model's format, of a deployment."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A registered peer, what is thought of it, and which of its devices are reserved."""

    entry: PeerEntry
    standing: Standing
    online: bool
    reserved: frozenset[int] = frozenset()

    @property
    def peer_id(self) -> PeerId:
        return self.entry.peer_id

    @property
    def free_slots(self) -> int:
        return max(0, self.entry.slots - len(self.reserved))


@dataclass(frozen=True, slots=True)
class Offer:
    """One device of one peer that fits."""

    candidate: Candidate
    device: int
    quote: PeerQuote
    amount: int
    score: float
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """Offers, best first; who was left out and why; and sentences for people."""

    offers: tuple[Offer, ...]
    rejected: tuple[RejectedPeer, ...]
    lines: tuple[str, ...]


def match(need: Need, candidates: Iterable[Candidate], now: float) -> Match:
    """Ranks every peer that can take the job now."""
    offers: list[Offer] = []
    rejected: list[RejectedPeer] = []
    spare: list[tuple[float, Offer]] = []
    others_exist = False
    for candidate in candidates:
        found = _offer(need, candidate, now)
        if isinstance(found, str):
            rejected.append(RejectedPeer(candidate.peer_id, found))
            others_exist |= found.startswith(_BUSY)
            continue
        exclusion = _exclusion(need, candidate.peer_id)
        if exclusion is None or _is_forgiven(exclusion, candidate, now):
            offers.append(found)
        else:
            reason = f"passed over: {exclusion.reason}"
            rejected.append(RejectedPeer(candidate.peer_id, reason))
            if exclusion.last_resort and candidate.entry.registered_at > exclusion.since:
                spare.append((exclusion.waits_until, found))
    if not offers:
        offers = [offer for waits_until, offer in spare if now >= waits_until or not others_exist]
        kept = {offer.candidate.peer_id for offer in offers}
        rejected = [entry for entry in rejected if entry.peer_id not in kept]
    ranked = _ranked(offers, now)
    return Match(ranked, tuple(rejected[:1000]), _explain(need, ranked, rejected))


def quotes(need: Need, candidates: Iterable[Candidate], now: float) -> Match:
    """As ``match``, but peers that are merely busy now are quoted too; cheapest first."""
    idle = [Candidate(candidate.entry, candidate.standing, candidate.online) for candidate in candidates]
    found = match(need, idle, now)
    by_price = sorted(found.offers, key=lambda offer: (offer.amount, -offer.score))
    return Match(tuple(by_price), found.rejected, found.lines)


def due_for_a_try(
    waiting: Sequence[tuple[JobId, PeerId, float]], tried_at: Mapping[JobId, float]
) -> list[tuple[JobId, PeerId, float]]:
    """Those that one pass looks at: of each user the MAX_TRIES that were looked at longest ago.

    A user whose jobs fit no peer must not make every pass long for all others.
    """
    counts: dict[PeerId, int] = {}
    due = []
    for entry in sorted(waiting, key=lambda entry: (tried_at.get(entry[0], 0.0), entry[2])):
        counts[entry[1]] = counts.get(entry[1], 0) + 1
        if counts[entry[1]] <= MAX_TRIES:
            due.append(entry)
    return due


def in_turn(
    waiting: Sequence[tuple[JobId, PeerId, float]],
    running: Mapping[PeerId, int],
    served_at: Mapping[PeerId, float],
) -> list[JobId]:
    """Waiting jobs (job, user, since) in the order in which they are served.

    The user with the least running and already picked goes first; then who was served longest ago, or
    never; then the longest wait.
    """
    queues: dict[PeerId, list[tuple[float, JobId]]] = {}
    for job_id, user, since in waiting:
        queues.setdefault(user, []).append((since, job_id))
    for queue in queues.values():
        queue.sort(reverse=True)
    users = [
        (running.get(user, 0), served_at.get(user, 0.0), queue.pop(), user) for user, queue in queues.items()
    ]
    heapq.heapify(users)
    order: list[JobId] = []
    while users:
        has, served, (_, job_id), user = users[0]
        order.append(job_id)
        if queues[user]:
            heapq.heapreplace(users, (has + 1, served, queues[user].pop(), user))
        else:
            heapq.heappop(users)
    return order


_BUSY = "busy"


def _offer(need: Need, candidate: Candidate, now: float) -> Offer | str:
    """The cheapest fitting device that is free, or why there is none."""
    problem = _peer_problem(need, candidate, now)
    if problem is not None:
        return problem
    fitting = [
        (index, device)
        for index, device in enumerate(candidate.entry.record.devices)
        if _device_problem(need, device, candidate) is None
    ]
    if not fitting:
        return _device_problem(need, candidate.entry.record.devices[0], candidate) or "no device fits"
    priced = sorted(
        (_quote(need, candidate, device), index) for index, device in fitting
    )  # the cheapest, then the first
    if priced[0][0].amount > need.affordable:
        cheapest = format_tokens(priced[0][0].amount)
        return f"asks {cheapest}, {format_tokens(need.affordable)} of the budget are left"
    free = [
        (price, index)
        for price, index in priced
        if index not in candidate.reserved and price.amount <= need.affordable
    ]
    if not free or not candidate.free_slots:
        return f"{_BUSY}: {len(candidate.reserved)} of {candidate.entry.slots} jobs run there"
    price, index = free[0]
    quote = PeerQuote(
        peer_id=candidate.peer_id,
        amount=price.amount,
        duration_ms=price.duration_ms,
        price_per_hour=candidate.entry.record.price_per_hour,
        reputation=score(candidate.standing, now),
    )
    return Offer(candidate, index, quote, price.amount, 0.0)


@dataclass(frozen=True, slots=True, order=True)
class _Price:
    amount: int
    duration_ms: int


def _duration_ms(need: Need, device: Device) -> int:
    return need.cost.served_ms or estimated_duration_ms(need.cost.training_flops, device.flops_per_s)


def _quote(need: Need, candidate: Candidate, device: Device) -> _Price:
    duration_ms = _duration_ms(need, device)
    whole = price_of(duration_ms, candidate.entry.record.price_per_hour)
    return _Price(remaining_amount(whole, need.first_segment, need.segments), duration_ms)


def _peer_problem(need: Need, candidate: Candidate, now: float) -> str | None:
    wanted, record = need.requirements, candidate.entry.record
    peer_id = candidate.peer_id
    if peer_id in wanted.deny:
        return "on the job's deny list"
    if wanted.allow and peer_id not in wanted.allow:
        return "not on the job's allow list"
    if need.delivery not in record.deliveries:
        offered = ", ".join(delivery.value for delivery in record.deliveries)
        return f"takes data as {offered}, the job's comes as {need.delivery.value}"
    if need.serves and need.serves not in record.serves:
        return f"serves {', '.join(record.serves) or 'no models'}, the deployment's is {need.serves}"
    if now < candidate.standing.banned_until:
        return f"banned for {candidate.standing.banned_until - now:.0f} s more after repeated faults"
    if not candidate.online:
        return "offline: no heartbeat in time"
    if record.price_per_hour > wanted.price_ceiling:
        asked, ceiling = format_tokens(record.price_per_hour), format_tokens(wanted.price_ceiling)
        return f"asks {asked} an hour, the ceiling is {ceiling}"
    if record.ram_bytes < need.cost.memory_bytes:
        return f"{record.ram_bytes} bytes of RAM, the job needs {need.cost.memory_bytes}"
    if candidate.entry.capacity == 0:
        return f"{_BUSY}: it takes no jobs now"
    return None


def _device_problem(need: Need, device: Device, candidate: Candidate) -> str | None:
    wanted = need.requirements
    if wanted.device is not None and device.kind is not wanted.device:
        kinds = sorted({other.kind.value for other in candidate.entry.record.devices})
        return f"has {', '.join(kinds)}, the job needs {wanted.device.value}"
    memory = max(wanted.memory_bytes, need.cost.memory_bytes)
    if device.memory_bytes < memory:
        return f"device of {device.memory_bytes} bytes, the job needs {memory}"
    if _duration_ms(need, device) > 1000 * LONGEST_S:
        return f"device of {device.flops_per_s} FLOP/s: the job would take over {LONGEST_S // 86400} days"
    return None


def _exclusion(need: Need, peer_id: PeerId) -> Exclusion | None:
    return next((entry for entry in need.excluded if entry.peer_id == peer_id), None)


def _is_forgiven(exclusion: Exclusion, candidate: Candidate, now: float) -> bool:
    if now < exclusion.until:
        return False
    return not exclusion.last_resort or candidate.entry.registered_at > exclusion.since


def _ranked(offers: Sequence[Offer], now: float) -> tuple[Offer, ...]:
    if not offers:
        return ()
    cheapest = min(offer.amount for offer in offers)
    scored = [_scored(offer, cheapest, now) for offer in offers]

    def rank(offer: Offer) -> tuple[bool, float, int, PeerId]:
        return is_too_large(offer), -offer.score, offer.amount, offer.candidate.peer_id

    return tuple(sorted(scored, key=rank))


def is_too_large(offer: Offer) -> bool:
    """Names cost nothing: a peer that has proven little gets a large job only where nobody else can do it."""
    return offer.amount > SMALL_JOB and offer.candidate.standing.completed < PROVEN_JOBS


def _scored(offer: Offer, cheapest: int, now: float) -> Offer:
    entry = offer.candidate.entry
    answer = UNMEASURED if entry.answer_s is None else max(0.0, 1 - entry.answer_s / SLOW_ANSWER_S)
    values = {
        "reputation": offer.quote.reputation,
        "free capacity": offer.candidate.free_slots / max(1, entry.slots),
        "price": cheapest / max(1, offer.amount),
        "uptime": entry.uptime(now),
        "answer time": answer,
    }
    total = sum(WEIGHTS[name] * value for name, value in values.items())
    return Offer(
        offer.candidate, offer.device, offer.quote, offer.amount, round(total, 6), tuple(values.items())
    )


def _explain(need: Need, ranked: Sequence[Offer], rejected: Sequence[RejectedPeer]) -> tuple[str, ...]:
    if not ranked:
        count = len(rejected)
        return (
            (f"still waiting: none of {count} registered peers can take it now",)
            if count
            else ("still waiting: no peer is registered",)
        )
    lines = [f"{len(ranked)} peers fit, {len(rejected)} do not; chosen is {ranked[0].candidate.peer_id}"]
    lines += [_line(place, offer) for place, offer in enumerate(ranked[:MAX_EXPLAINED], 1)]
    return tuple(lines)


def _line(place: int, offer: Offer) -> str:
    parts = ", ".join(f"{name} {value:.2f} x {WEIGHTS[name]:g}" for name, value in offer.parts)
    tier_now = tier(offer.candidate.standing, offer.candidate.entry.seen_at).value
    return (
        f"{place}. {offer.candidate.peer_id}: {offer.score:.3f} = {parts}; asks "
        f"{format_tokens(offer.amount)} for {offer.quote.duration_ms / 1000:.1f} s; {tier_now}"
        f"{', so small jobs first' if is_too_large(offer) else ''}"
    )
