"""Who is let in: Host, Origin, keys and their limits."""

from __future__ import annotations

import pytest

from backend.serving.admission import Admission
from backend.serving.http import HttpError
from backend.serving.keys import Gatekeeper, make_key
from backend.serving.messages import ApiKey

HOST = b"127.0.0.1:8080"


def a_key(per_minute: int = 0, scopes: tuple[str, ...] = ("predict",)) -> tuple[str, ApiKey]:
    return make_key("phone", scopes, per_minute, ("0a1b", "s3cr_et"), "2026-01-01")


def admission(*keys: ApiKey, hosts: tuple[str, ...] = ()) -> Admission:
    return Admission(hosts, Gatekeeper(keys), needs_key=bool(keys))


def bearer(text: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + text.encode()}


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:80", b"127.0.0.1:1", b"[::1]:8080", b"10.0.0.7", b"box"]
)
def test_names_of_this_server_are_let_in(host: bytes) -> None:
    admission(hosts=("Box",)).check_host({b"host": host})


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"a" * 301,
        b"\xff",
        b"[::x]",
    ],
)
def test_a_rebound_name_is_refused(host: bytes) -> None:
    with pytest.raises(HttpError) as refusal:
        admission().check_host({b"host": host})
    assert refusal.value.status in (421,)


@pytest.mark.parametrize("origin", [b"http://evil.example", b"null", b"http://127.0.0.1:9999"])
def test_a_page_of_another_site_is_refused(origin: bytes) -> None:
    with pytest.raises(HttpError) as refusal:
        admission().check_host({b"host": HOST, b"origin": origin})
    assert refusal.value.status == 403
    admission().check_host({b"host": HOST, b"origin": b"http://" + HOST})


def test_without_keys_nobody_is_asked_for_one() -> None:
    assert admission().check_key({}, "predict", 0.0) is None


@pytest.mark.parametrize(
    "headers",
    [{}, bearer(""), bearer("cyx_0a1b_wrong"), bearer("x" * 10_000), {b"authorization": b"Basic eDp5"}],
)
def test_a_wrong_key_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(HttpError) as refusal:
        admission(a_key()[1]).check_key(headers, "predict", 0.0)
    assert refusal.value.status == 401
    assert (b"www-authenticate", b"Bearer") in refusal.value.headers


def test_a_key_opens_what_it_is_for_and_nothing_else() -> None:
    text, kept = a_key()
    door = admission(kept)
    assert door.check_key(bearer(text), "predict", 0.0) == kept
    assert door.check_key({b"x-api-key": text.encode()}, "predict", 0.0) == kept
    with pytest.raises(HttpError) as refusal:
        door.check_key(bearer(text), "manage", 0.0)
    assert refusal.value.status == 403


def test_what_is_kept_of_a_key_does_not_open_anything() -> None:
    text, kept = a_key()
    assert "s3cr_et" not in str(kept)
    assert Gatekeeper((kept,)).find(kept.sha256) is None
    assert Gatekeeper((kept,)).find(text) == kept


def test_a_key_may_be_used_so_often_a_minute() -> None:
    text, kept = a_key(per_minute=2)
    door = admission(kept)
    for _ in range(2):
        door.check_key(bearer(text), "predict", 0.0)
    with pytest.raises(HttpError) as refusal:
        door.check_key(bearer(text), "predict", 0.0)
    assert (refusal.value.status, dict(refusal.value.headers)) == (429, {b"retry-after": b"30"})
    door.check_key(bearer(text), "predict", 30.0)


def test_a_key_that_is_revoked_stops_working_and_others_keep_their_count() -> None:
    text, kept = a_key(per_minute=1)
    gatekeeper = Gatekeeper((kept,))
    assert gatekeeper.wait_s(kept, 0.0) == 0
    gatekeeper.replace((kept,))
    assert gatekeeper.wait_s(kept, 0.0) > 0
    gatekeeper.replace(())
    assert gatekeeper.find(text) is None
