"""``cyxwiz check --measure`` times real steps in a worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine_app.cli import main

pytestmark = pytest.mark.e2e
EXAMPLE = Path(__file__).parents[2] / "scripts" / "examples" / "digits_mlp.json"


def test_a_time_is_measured_on_a_device() -> None:
    arguments = ["check", str(EXAMPLE), "--data", "bundled:digits", "--measure", "cpu", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    size = json.loads(result.output)["estimate"]
    assert size["measured_on"] == "cpu"
    assert size["seconds"] == pytest.approx(size["training_flops"] / size["flops_per_s"], rel=0.01)


def test_a_device_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(main, ["check", str(EXAMPLE), "--data", "bundled:digits", "--measure", "tpu"])
    assert result.exit_code == 1
    assert "tpu" in result.output
