"""What a coordinator refuses to be started with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.config import Config, check_config
from coordinator.errors import ConfigError
from p2p.relay.book import RelayLimits


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lease_s": float("nan")}, "lease_s of nan"),
        ({"lease_s": 5.0}, "at least twice the heartbeat"),
        ({"solana_rpc": "https://example.org"}, "--solana-rpc needs --program-id"),
        ({"program_id": "Az2Y"}, "--program-id without --solana-rpc"),
        ({"relay": replace(RelayLimits(), bytes_per_s=float("nan"))}, "--relay-rate of nan MB/s"),
        (
            {"relay": replace(RelayLimits(), bytes_per_s_of_all=float("inf"))},
            "--relay-total-rate of inf MB/s",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_config(Config(**{"data_dir": tmp_path, **changes}))  # type: ignore[arg-type]


def test_without_any_flag_there_is_nothing_to_refuse(tmp_path: Path) -> None:
    assert check_config(Config(tmp_path)).relay is not None
