"""Which deployments a gateway answers for."""

from __future__ import annotations

from dataclasses import replace

from engine_app.gateway.deployments import Choice, Deployment, changes, places
from engine_app.gateway.endpoint import Place

ID = "ab" * 32
HERE = Deployment(ID, "chat", "P", True, frozenset({"P"}))
REPLICA = Deployment("cd" * 32, "chat", "Q", True)
WAITING = Deployment("ef" * 32, "chat", "R", False)
OTHER = Deployment("12" * 32, "digits", "P", True)
ALL = (HERE, REPLICA, WAITING, OTHER)


def test_replicas_share_a_name_and_who_does_not_run_yet_gets_nothing() -> None:
    found = places(ALL, Choice(frozenset({"chat"})))
    assert {(place.model, place.peer_id) for place in found} == {("chat", "P"), ("chat", "Q")}


def test_a_deployment_is_meant_by_the_beginning_of_its_id_but_not_by_a_few_letters() -> None:
    assert places(ALL, Choice(frozenset({ID[:8]}))) == {Place("chat", "chat", "P", ID, is_given=True)}
    assert places(ALL, Choice(frozenset({"ab"}))) == set()


def test_all_means_all() -> None:
    found = places(ALL, Choice(every=True))
    assert {place.model for place in found} == {"chat", "digits"}


def test_what_was_named_and_is_not_there_is_told() -> None:
    assert Choice(frozenset({"chat", "cat"})).missing(ALL) == ["cat"]


def test_a_deployment_that_moves_to_another_peer_is_another_place() -> None:
    choice = Choice(every=True)
    known = dict.fromkeys(places([HERE, OTHER], choice), "member")
    moved = replace(HERE, peer_id="S")
    added, gone = changes(known, places([moved, OTHER], choice))
    assert [(place.peer_id, place.is_given) for place in added] == [("S", False)], (
        "and nobody gave it that one"
    )
    assert gone == ["member"]
    assert changes(known, known.keys() | set()) == ([], [])
