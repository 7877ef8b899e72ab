"""Which files a job begins from, as its peer sees it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from p2p.jobs import FileRef, StartWeights
from peer.admission import check_checkpoint
from peer.errors import JobError
from tests.unit.peer.make import make_file, make_offer

BASE, OTHER = make_file("b"), make_file("c")


@pytest.mark.parametrize(
    ("first", "brought", "given", "is_right"),
    [
        (0, None, None, True),
        (0, None, OTHER, False),
        (0, BASE, BASE, True),
        (0, BASE, OTHER, False),
        (0, BASE, None, False),
        (1, BASE, OTHER, True),
        (1, BASE, None, False),
    ],
)
def test_a_job_begins_with_the_weights_that_were_agreed_on_and_goes_on_from_a_checkpoint(
    first: int, brought: FileRef | None, given: FileRef | None, is_right: bool
) -> None:
    offer = make_offer(first_segment=first)
    if brought is not None:
        offer = replace(offer, job=replace(offer.job, weights=StartWeights(brought, False)))
    if is_right:
        check_checkpoint(offer, given)
    else:
        with pytest.raises(JobError, match=f"for first segment {first}"):
            check_checkpoint(offer, given)
