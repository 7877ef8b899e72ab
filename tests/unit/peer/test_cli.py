from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from p2p.errors import LocalProtocolError, RemoteFailureError
from p2p.identity import Identity
from peer.cli import _as_deployment, _guarded, cli
from peer.config import Config, check_config, parse_price
from peer.errors import ConfigError

ADDRESS = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
HEAVY = ("torch", "libp2p", "trio", "solders", "numpy", "sklearn", "backend", "p2p.host")


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, peer.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_daemon_loads_no_numeric_runtime() -> None:
    code = (
        "import sys, peer.daemon; print([m for m in ('torch', 'sklearn', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["start", "status", "allow", "deny", "allowed"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0 and "--data-dir" in result.output


@pytest.mark.parametrize(("text", "units"), [("10", 10**10), ("0.5", 5 * 10**8), ("1e-9", 1), ("0", 0)])
def test_a_price_is_read_exactly(text: str, units: int) -> None:
    assert parse_price(text) == units


@pytest.mark.parametrize("text", ["cheap", "-1", "0.0000000001", "nan", "inf", "1e30"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="price"):
        parse_price(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coordinator": "localhost:4001"}, "expected an address"),
        ({"coordinator": "/ip4/127.0.0.1/tcp/4001/p2p/nobody"}, "expected an address"),
        ({"coordinator": ADDRESS.replace("/tcp/", "/udp/")}, "expected an address"),
        ({"prewarmed": 99}, "allowed 0 to 16"),
        ({"engine_patience_s": float("nan")}, "--engine-patience of nan s"),
        ({"settle_grace_s": -5.0}, "--settle-grace of -5 s"),
        ({"stream_ahead_bytes": 1 << 60}, "bytes of samples ahead, allowed are"),
        ({"payout": "me"}, "Solana address"),
        ({"payout": "1" * 44}, "Solana address"),
    ],
)
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    settings: dict[str, object] = {"data_dir": tmp_path, "coordinator": ADDRESS, "price_per_hour": 1}
    with pytest.raises(ConfigError, match=words):
        check_config(Config(**{**settings, **changes}))  # type: ignore[arg-type]


def test_what_others_wrote_moves_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> None:
        raise RemoteFailureError("refused", "no\x1b]0;title\x07")

    assert _guarded(refused) == 1
    assert capsys.readouterr().err == "cyxpeer: refused: no\\x1b]0;title\\x07\n"


def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from peer.cli import main; main()",
        "status",
        "--data-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"cyxpeer: no program runs here: nothing listens at {tmp_path}/control.sock"


def test_the_config_file_stands_in_for_flags(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('price = "free"\ncoordinator = "nowhere"\n')
    code = "from peer.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "start", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "price 'free'" in done.stderr


def test_the_list_of_allowed_engines_is_changed_without_a_running_peer(tmp_path: Path) -> None:
    engine_id = Identity.generate().peer_id
    runner = CliRunner()

    def ask(*words: str) -> Any:
        return runner.invoke(cli, [*words, "--data-dir", str(tmp_path)])

    assert ask("allow", engine_id).stdout.strip() == engine_id
    assert json.loads(ask("allowed", "--json").stdout)["allowed"] == [engine_id]
    assert isinstance(ask("allow", "nobody").exception, ConfigError)
    assert "no Engine is let in" in ask("deny", engine_id).output
    assert json.loads(ask("allowed", "--json").stdout)["allowed"] == []


def test_status_says_how_a_deployment_is() -> None:
    told = {
        "job_id": "ab" * 32,
        "name": "digits",
        "format": "onnx",
        "state": "ready",
        "requests": 7,
        "periods_left": 12,
        "period_s": 60,
        "refused": "",
    }
    line = "deployment abababababab  digits (onnx) ready, 7 requests, 12 periods of 60 s left"
    assert _as_deployment(told) == line
    late = _as_deployment({**told, "requests": None, "refused": "unpaid: no voucher"})
    assert late.endswith("not asked yet, 12 periods of 60 s left; refuses calls: unpaid: no voucher")


def test_a_peer_for_nobody_is_not_started(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["start", "--data-dir", str(tmp_path)])
    assert "neither --coordinator nor --lan" in str(result.exception)
    result = CliRunner().invoke(cli, ["start", "--data-dir", str(tmp_path), "--coordinator", "/ip4/1.1.1.1"])
    assert "--price is needed with --coordinator" in result.output


def test_an_allowed_engine_that_is_none_is_named_at_the_start(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["start", "--data-dir", str(tmp_path), "--lan", "--allow", "me"])
    assert "'me' is no peer id" in str(result.exception)


def test_limits_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    for flag in ("--upload-limit", "--download-limit", "--storage"):
        arguments = ["start", "--lan", "--data-dir", str(tmp_path), flag, "fast"]
        result = CliRunner().invoke(cli, arguments)
        assert isinstance(result.exception, LocalProtocolError)
        assert "'fast' bytes, allowed are whole numbers such as 500K, 20M or 1G" in str(result.exception)
