from __future__ import annotations

from coordinator.tokens import MAX_ALIVE, IssuedToken, TokenBook
from p2p.identifiers import PeerId

ENGINE, PEER, OTHER = PeerId("engine"), PeerId("peer"), PeerId("other")


def token(number: int, *, audience: PeerId = PEER, job: str = "job", ends: float = 900.0) -> IssuedToken:
    return IssuedToken(f"token-{number:04}", ENGINE, audience, job, "infer", ends)


def test_what_is_taken_back_is_told_to_its_peer_until_it_expires() -> None:
    book = TokenBook()
    assert book.issue(token(1), 0.0) and book.issue(token(2, audience=OTHER), 0.0)
    taken = book.revoke("job", lambda known: known.audience == PEER, 1.0)
    assert [known.jti for known in taken] == ["token-0001"] and all(known.revoked for known in taken)
    assert book.revoke("job", lambda known: known.audience == PEER, 1.0) == ()
    assert (book.revoked_at(PEER, 899.0), book.revoked_at(OTHER, 899.0)) == (("token-0001",), ())
    assert book.revoked_at(PEER, 900.0) == ()


def test_so_many_tokens_for_the_same_are_alive_at_most() -> None:
    book = TokenBook()
    for number in range(MAX_ALIVE):
        assert book.issue(token(number), 0.0)
    assert not book.issue(token(99), 0.0)
    assert book.issue(token(100, job="another", ends=901.0), 0.0)
    assert book.issue(token(101, ends=1800.0), 900.0)


def test_the_book_is_the_same_after_a_restart() -> None:
    book = TokenBook()
    book.issue(token(1), 0.0)
    (taken,) = book.revoke("job", lambda _: True, 1.0)
    again = TokenBook([token(3, ends=950.0), taken])
    assert again.revoked_at(PEER, 2.0) == ("token-0001",)
    assert again.jobs_of(ENGINE) == {"job"}


def test_nothing_of_expired_tokens_is_kept() -> None:
    book = TokenBook()
    for number in range(50):
        book.issue(token(number, job=f"job {number}", ends=float(number + 1)), 0.0)
    book.revoke("job 7", lambda _: True, 0.5)
    book.forget_expired(50.0)
    assert vars(book) == vars(TokenBook())
