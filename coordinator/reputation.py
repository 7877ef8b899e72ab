"""What a peer has proven, as a bounded number, and how long it is kept out for what it did. Pure.

Only evidence that the coordinator saw itself, or that somebody with money at stake gave, counts.
Old evidence fades with a half-life; strikes lead to bans, each twice as long as the one before.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from p2p.identifiers import PeerId

HALF_LIFE_S = 30 * 24 * 3600.0
STRIKES_FOR_A_BAN = 3
STRIKE_LIFE_S = 24 * 3600.0
FIRST_BAN_S = 600.0
LONGEST_BAN_S = 7 * 24 * 3600.0
PRIOR_GOOD, PRIOR_BAD = 2.0, 2.0
"""An unknown peer stands at 0.5."""
MAX_WEIGHT = 1000.0


class Evidence(Enum):
    """What happened, as the log names it."""

    JOB_COMPLETED = "job completed"
    TINY_JOB_COMPLETED = "job worth next to nothing completed"
    SEGMENT_PROVEN = "segment proven"
    OFFER_IGNORED = "offer ignored"
    LEASE_LOST = "lease lost"
    WORK_FAILED = "work failed"
    UNREACHABLE = "unreachable for its user"
    CORRUPT_WORK = "corrupt work"
    """By the word of a user who has paid this peer for some of it."""
    ACCUSED = "accused by a user who has paid nothing"


PROVEN_JOBS = 3
"""Completed by a peer that is not new any more."""
TINY_JOB = 10**5
"""Units. Nobody can prove anything to the coordinator by paying himself less: the fee is what it costs."""
_GOOD = {Evidence.JOB_COMPLETED: 1.0, Evidence.SEGMENT_PROVEN: 0.1}
_BAD = {
    Evidence.OFFER_IGNORED: 0.25,
    Evidence.LEASE_LOST: 1.0,
    Evidence.WORK_FAILED: 0.5,
    Evidence.UNREACHABLE: 0.5,
    Evidence.CORRUPT_WORK: 2.0,
    Evidence.ACCUSED: 0.5,
}
_STRIKES = {Evidence.LEASE_LOST: 1, Evidence.CORRUPT_WORK: 2}


class Tier(Enum):
    BANNED = "banned"
    POOR = "poor"
    NEW = "new"
    REGULAR = "regular"
    TRUSTED = "trusted"


class Standing(msgspec.Struct, frozen=True):
    """All that is remembered of one peer."""

    peer_id: PeerId
    good: float = 0.0
    bad: float = 0.0
    completed: int = 0
    strikes: int = 0
    last_strike_at: float = 0.0
    bans: int = 0
    banned_until: float = 0.0
    updated_at: float = 0.0


def completion(amount: int) -> Evidence:
    """Of a job that earned so many units."""
    return Evidence.JOB_COMPLETED if amount >= TINY_JOB else Evidence.TINY_JOB_COMPLETED


def note(standing: Standing, evidence: Evidence, at: float) -> Standing:
    """The standing with one more piece of evidence."""
    good, bad = _faded(standing, at)
    noted = msgspec.structs.replace(
        standing,
        good=min(MAX_WEIGHT, good + _GOOD.get(evidence, 0.0)),
        bad=min(MAX_WEIGHT, bad + _BAD.get(evidence, 0.0)),
        completed=standing.completed + (evidence is Evidence.JOB_COMPLETED),
        updated_at=max(at, standing.updated_at),
    )
    strikes = _STRIKES.get(evidence, 0)
    return _strike(noted, strikes, at) if strikes else noted


def _strike(standing: Standing, strikes: int, at: float) -> Standing:
    fresh = at - standing.last_strike_at <= STRIKE_LIFE_S
    total = (standing.strikes if fresh else 0) + strikes
    if total < STRIKES_FOR_A_BAN:
        return msgspec.structs.replace(standing, strikes=total, last_strike_at=at)
    ban_s = min(LONGEST_BAN_S, FIRST_BAN_S * 2 ** min(standing.bans, 20))
    return msgspec.structs.replace(
        standing, strikes=0, last_strike_at=at, bans=standing.bans + 1, banned_until=at + ban_s
    )


def score(standing: Standing, now: float) -> float:
    """Between 0 and 1; 0.5 without evidence."""
    good, bad = _faded(standing, now)
    return (good + PRIOR_GOOD) / (good + bad + PRIOR_GOOD + PRIOR_BAD)


def is_banned(standing: Standing, now: float) -> bool:
    return now < standing.banned_until


def tier(standing: Standing, now: float) -> Tier:
    if is_banned(standing, now):
        return Tier.BANNED
    value = score(standing, now)
    if value < 0.35:
        return Tier.POOR
    if standing.completed < PROVEN_JOBS:
        return Tier.NEW
    return Tier.TRUSTED if standing.completed >= 20 and value >= 0.85 else Tier.REGULAR


def _faded(standing: Standing, now: float) -> tuple[float, float]:
    factor = 0.5 ** (max(0.0, now - standing.updated_at) / HALF_LIFE_S)
    return standing.good * factor, standing.bad * factor
