"""What commands refuse before they begin: as a user gets to see it, and with which exit code."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine_app.cli import main

GRAPH = Path("scripts/examples/digits_cnn.json")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    copy = tmp_path / "graph.json"
    shutil.copy(GRAPH, copy)
    return copy


def cyxwiz(tmp_path: Path, *arguments: object) -> Result:
    found = CliRunner().invoke(main, ["--data-dir", str(tmp_path / "engine"), *map(str, arguments)])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def test_an_output_without_its_folder_is_refused_and_nothing_is_made(tmp_path: Path, graph: Path) -> None:
    missing = tmp_path / "missing"
    found = cyxwiz(tmp_path, "code", graph, "-o", missing / "code.py")
    assert found.exit_code == 2
    assert f"no folder {missing} to write code.py to" in found.stderr
    assert not missing.exists()


@pytest.mark.parametrize("output_first", [True, False])
def test_no_command_writes_over_what_it_reads(tmp_path: Path, graph: Path, output_first: bool) -> None:
    words = ["-o", graph, graph] if output_first else [graph, "-o", graph]
    found = cyxwiz(tmp_path, "code", *words)
    assert found.exit_code == 2
    assert "read and written over" in found.stderr
    assert graph.read_bytes() == GRAPH.read_bytes()


def test_a_dataset_file_is_not_written_under_the_ending_of_another_format(tmp_path: Path) -> None:
    found = cyxwiz(tmp_path, "data", "convert", "bundled:digits", "-o", tmp_path / "digits.csv")
    assert found.exit_code == 2
    assert "digits.csv is written as .safetensors" in found.stderr


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu,", "cpu;cuda:0", ""])
def test_what_is_no_device_is_told_before_a_worker_starts(tmp_path: Path, graph: Path, device: str) -> None:
    found = cyxwiz(tmp_path, "train", graph, "--data", "bundled:digits", "--device", device)
    assert found.exit_code == 2
    assert "is no device; allowed are cpu, cuda, cuda:0" in found.stderr


@pytest.mark.parametrize("rate", ["nan", "inf", "0"])
def test_what_is_no_number_is_no_rate(tmp_path: Path, rate: str) -> None:
    found = cyxwiz(tmp_path, "set-rate", "local-1", rate)
    assert found.exit_code == 2
    assert "Invalid value for 'RATE'" in found.stderr


def test_a_port_that_is_taken_is_named_and_how_to_take_another(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = cyxwiz(tmp_path, "serve", tmp_path / "tiny.gguf", "--port", port)
    assert found.exit_code == 1
    assert f"cannot answer at 127.0.0.1, port {port}: Address already in use; --port 0" in found.stderr


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "engine").symlink_to(tmp_path / "nowhere" / "engine")
    found = cyxwiz(tmp_path, "wallet", "new")
    assert found.exit_code == 1
    assert found.stderr.startswith("cyxwiz: ")
    assert len(found.stderr.splitlines()) == 1


def test_a_key_has_a_name_and_a_limit_that_servers_can_count(tmp_path: Path) -> None:
    assert cyxwiz(tmp_path, "keys", "new", "").exit_code == 1
    assert cyxwiz(tmp_path, "keys", "new", "ann", "--per-minute", 10**30).exit_code == 2
    assert cyxwiz(tmp_path, "keys", "new", "ann", "--per-minute", 10**6).exit_code == 0
    assert "1000000 a minute" in cyxwiz(tmp_path, "keys", "list").stdout


def test_a_locked_wallet_says_how_its_passphrase_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYXWIZ_PASSPHRASE", "open sesame")
    assert cyxwiz(tmp_path, "wallet", "new", "--encrypt").exit_code == 0
    monkeypatch.delenv("CYXWIZ_PASSPHRASE")
    found = cyxwiz(tmp_path, "wallet", "show")
    assert found.exit_code == 1
    assert "CYXWIZ_PASSPHRASE" in found.stderr


def test_without_a_terminal_no_passphrase_is_asked_for(tmp_path: Path) -> None:
    found = cyxwiz(tmp_path, "wallet", "new", "--encrypt")
    assert found.exit_code == 1
    assert "no terminal to ask at" in found.stderr


def test_no_tokens_are_no_airdrop(tmp_path: Path) -> None:
    found = cyxwiz(tmp_path, "wallet", "airdrop", "0")
    assert found.exit_code == 1
    assert "must be more than 0" in found.stderr


def test_what_is_no_peer_is_refused_here_and_not_by_the_coordinator(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    found = cyxwiz(tmp_path, "deploy", tmp_path / "tiny.gguf", "--peer", "zzz", "--budget", "1")
    assert found.exit_code == 1
    assert "'zzz' is no peer id" in found.stderr


def test_names_that_are_unknown_bring_the_nearest(tmp_path: Path) -> None:
    assert "Conv2D" in cyxwiz(tmp_path, "node", "conv2").stderr
    assert "categories are Activations" in cyxwiz(tmp_path, "nodes", "--category", "zzz").stderr


def test_whoever_reads_no_more_of_an_answer_hears_nothing_about_it() -> None:
    code = "from engine_app.entry import report; report(BrokenPipeError(32, 'Broken pipe'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")
