from __future__ import annotations

from pathlib import Path

import pytest

from engine_app.config import ConfigError, read_config


def test_limits_of_transfers_come_from_flags_before_environment_before_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CYXWIZ_UPLOAD_LIMIT", raising=False)
    (tmp_path / "config.toml").write_text('upload_limit = "1M"\ndownload_limit = "2M"\n')
    config = read_config(str(tmp_path))
    assert (config.upload_limit, config.download_limit, config.storage) == (10**6, 2 * 10**6, None)
    monkeypatch.setenv("CYXWIZ_UPLOAD_LIMIT", "3M")
    assert read_config(str(tmp_path)).upload_limit == 3 * 10**6
    assert read_config(str(tmp_path), upload_limit="500K").upload_limit == 500_000
    assert read_config(str(tmp_path), storage="100G").storage == 10**11


def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    config = read_config(str(tmp_path))
    assert config.upload_limit is config.download_limit is None


def test_a_limit_that_is_no_number_of_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'fast' bytes, allowed are whole numbers such as 500K, 20M or 1G"):
        read_config(str(tmp_path), download_limit="fast")
