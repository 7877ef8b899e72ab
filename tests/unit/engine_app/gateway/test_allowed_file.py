"""The file of peers that may see prompts, as gateways that run see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_app.entry import CommandError
from engine_app.gateway.allowed_file import FILE, AllowedPeers, change_allowed, checked_peer, read_allowed
from p2p.identity import Identity

PEER = Identity.from_seed(bytes(range(32))).peer_id


def test_a_change_holds_at_once_in_gateways_that_run(tmp_path: Path) -> None:
    running = AllowedPeers(tmp_path, frozenset())
    assert not running.lets(PEER, False)
    assert running.lets(PEER, True), "what was deployed there was given to it"
    change_allowed(tmp_path, lambda allowed: allowed.allowing(checked_peer(PEER)))
    assert running.lets(PEER, False)
    change_allowed(tmp_path, lambda allowed: allowed.forbidding(PEER))
    assert not running.lets(PEER, True)


def test_who_is_allowed_for_one_run_is_not_kept_and_not_above_a_ban(tmp_path: Path) -> None:
    running = AllowedPeers(tmp_path, frozenset({PEER}))
    assert running.lets(PEER, False)
    assert read_allowed(tmp_path).peers == frozenset()
    change_allowed(tmp_path, lambda allowed: allowed.forbidding(PEER))
    assert not running.lets(PEER, False)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"peers": 5}', b'{"peers": [], "other": 1}', b"\xff\xfe"])
def test_with_a_damaged_file_nobody_sees_anything(tmp_path: Path, damage: bytes) -> None:
    running = AllowedPeers(tmp_path, frozenset({PEER}))
    assert running.lets(PEER, True)
    (tmp_path / FILE).write_bytes(damage)
    assert not running.lets(PEER, True)
    assert running.trouble is not None and FILE in running.trouble
    with pytest.raises(CommandError, match=FILE):
        change_allowed(tmp_path, lambda allowed: allowed.allowing(PEER))


@pytest.mark.parametrize("text", ["", "../etc", "12D3KooW", PEER + "x", PEER[:-1]])
def test_what_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no peer id"):
        checked_peer(text)
