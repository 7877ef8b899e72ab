"""Pieces of tokens to text that may be shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.serving.text_stream import TextStream


def shown(pieces: list[bytes], *stops: str) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    parts = [stream.add(piece) for piece in pieces]
    return [*parts, stream.end()], stream.stopped


def test_a_character_that_is_cut_is_shown_once_it_is_whole() -> None:
    assert shown([b"a\xc3", b"\xa9b"]) == (["a", "éb", ""], False)
    assert shown([b"a\xc3"]) == (["a", "�"], False)


def test_text_ends_before_a_stop_sequence_however_it_is_cut() -> None:
    assert shown([b"one ST", b"OP two", b"three"], "STOP") == (["one ", "", "", ""], True)
    assert shown([b"one ST", b"AR"], "STOP") == (["one ", "STAR", ""], False)
    assert shown([b"one ST"], "STOP") == (["one ", "ST"], False)


@given(
    st.text(alphabet="ab é", max_size=30),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_any_cut_of_a_text_is_shown_up_to_the_first_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    parts, stopped = shown(pieces, *stops)
    if not ends:
        assert "".join(parts) == text
    else:
        assert stopped
        # A longer stop that begins earlier may only be complete after a shorter one that begins later.
        assert text.startswith("".join(parts))
        assert not any(stop in "".join(parts) for stop in stops)
