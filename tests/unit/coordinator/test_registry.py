from __future__ import annotations

from typing import Any

import pytest

from coordinator.registry import KEEP_SILENT_S, Registry
from p2p.errors import RecordRefusedError


def register(registry: Registry, make: Any, name: str, at: float) -> None:
    registry.register(make.identity(name).peer_id, make.signed(name), at)


def test_names_that_register_and_leave_take_no_place_from_others(make: Any) -> None:
    registry = Registry(silence_s=20, max_peers=3)
    for name in ("a", "b", "c"):
        register(registry, make, name, make.now)
    with pytest.raises(RecordRefusedError, match="3 peers are online, limit 3"):
        register(registry, make, "d", make.now + 20)
    registry.heartbeat(make.identity("b").peer_id, 0, 1, make.now + 20)
    register(registry, make, "d", make.now + 21)
    assert {entry.peer_id for entry in registry} == {make.identity(name).peer_id for name in "bd"}


def test_a_known_peer_is_let_in_where_there_is_no_room(make: Any) -> None:
    registry = Registry(silence_s=20, max_peers=1)
    register(registry, make, "a", make.now)
    register(registry, make, "a", make.now + 1)
    assert len(registry) == 1


def test_silent_peers_are_forgotten_after_an_hour(make: Any) -> None:
    registry = Registry(silence_s=20)
    signed = make.signed("a", expires_at=make.now + 2 * KEEP_SILENT_S)
    registry.register(make.identity("a").peer_id, signed, make.now)
    registry.forget_silent(make.now + KEEP_SILENT_S)
    assert len(registry) == 1
    registry.forget_silent(make.now + KEEP_SILENT_S + 1)
    assert len(registry) == 0


def test_an_older_record_does_not_replace_a_newer(make: Any) -> None:
    registry = Registry(silence_s=20)
    register(registry, make, "a", make.now)
    old = make.signed("a", sequence=int(make.now * 1000) - 1)
    with pytest.raises(RecordRefusedError, match="it is older"):
        registry.register(make.identity("a").peer_id, old, make.now)


def test_nobody_registers_for_another(make: Any) -> None:
    registry = Registry(silence_s=20)
    with pytest.raises(RecordRefusedError):
        registry.register(make.identity("b").peer_id, make.signed("a"), make.now)
