"""A job's story in the terminal, whatever its news look like."""

from __future__ import annotations

import pytest

from engine_app.show import open_story


def test_stages_are_told_with_and_without_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    with open_story(as_json=False) as story:
        story.tell({"kind": "stage", "text": "segment 1 was checked"})
        story.tell({"kind": "stage", "text": "compared", "number": 2, "total": 4})
    told = "".join(capsys.readouterr())
    assert "segment 1 was checked" in told
    assert "2 of 4: compared" in told
