from __future__ import annotations

from pathlib import Path

import pytest

from engine_app.ui.settings import MAX_RECENT, Settings, load_settings, save_settings


def test_what_was_saved_is_there_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "new" / "window.json"
    settings = Settings(palette="light", scale=1.3, recent=("a.json",), seen_tour=True)
    save_settings(path, settings)
    assert load_settings(path) == settings


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"scale": "big"}', b" " * (1 << 17)])
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "window.json"
    path.write_bytes(content)
    assert load_settings(path) == Settings()


def test_values_that_are_not_offered_become_the_nearest_that_are(tmp_path: Path) -> None:
    path = tmp_path / "window.json"
    path.write_bytes(b'{"palette": "pink", "scale": 40, "later": 1}')
    assert load_settings(path) == Settings(palette="dark", scale=2.0)


def test_recent_files_are_few_and_named_once() -> None:
    settings = Settings()
    for number in [*range(20), 19]:
        settings = settings.with_recent(Path(f"{number}.json"))
    assert len(settings.recent) == MAX_RECENT
    assert settings.recent[:2] == ("19.json", "18.json")
