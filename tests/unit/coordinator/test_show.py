"""What the coordinator's operator sees of strangers."""

from __future__ import annotations

import pytest

from coordinator import show

HOSTILE = "cpu \x1b]0;title\x07\x1b[2J"


def test_what_peers_call_themselves_moves_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    peer = {
        "peer_id": "12D3",
        "online": True,
        "tier": "new",
        "reputation": 0.5,
        "running": 0,
        "slots": 1,
        "price_per_hour": 1,
        "devices": [{"name": HOSTILE}],
    }
    show.peers([peer])
    show.explain({"lines": [HOSTILE], "rejected": [{"peer_id": "12D3", "reason": HOSTILE}], "payments": []})
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\x07" not in text
    assert text.count(r"cpu \x1b]0;title\x07\x1b[2J") == 3
