"""How much of a list goes into one answer."""

from __future__ import annotations

from typing import Any

import msgspec

from coordinator.answers import as_many_as_fit
from coordinator.engine_calls import explanation
from p2p.protocols.coordinator import LIMITS, RejectedPeer


def test_a_list_is_cut_where_its_parts_are_more_than_an_answer_holds() -> None:
    parts = ["x" * 997] * 10  # 1,000 bytes each
    assert as_many_as_fit(parts, 10_000) == tuple(parts)
    assert as_many_as_fit(parts, 9_999) == tuple(parts[:9])
    assert as_many_as_fit([], 1) == ()


def test_reasons_with_the_words_of_many_peers_fit_into_an_answer(make: Any) -> None:
    """Which say themselves what they serve."""
    said = "serves " + ", ".join(["\U0001f600" * 128] * 8) + ", the deployment's is cyxmodel"
    rejected = (RejectedPeer(make.identity("peer").peer_id, said),) * 1000
    told = explanation(make.submitted(), (), rejected)
    assert len(msgspec.msgpack.encode(told)) < LIMITS.message_bytes and len(told.rejected) > 400
