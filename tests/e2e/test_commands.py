"""The commands as a user types them: listings, versions, data directories, and what is refused in words."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from local_network import LOOPBACK, LocalNetwork, command

from p2p.identity import Identity

pytestmark = pytest.mark.e2e

PROGRAMS = ("cyxwiz", "cyxpeer", "cyxcoordinator")
STRANGER = Identity.from_seed(bytes(range(32))).peer_id
MOST_S = 240


@pytest.fixture(scope="module")
def running(
    make_network: Callable[..., AbstractContextManager[LocalNetwork]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalNetwork]:
    with make_network(tmp_path_factory.mktemp("network")) as network:
        network.start_peer("peer", "10", "--gpus", "none")
        yield network


def refused(*words: str) -> str:
    """What a command says on stderr that must fail, in one line and without a traceback."""
    done = subprocess.run(
        [command(words[0]), *words[1:]], capture_output=True, text=True, timeout=MOST_S, check=False
    )
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_tells_its_version(program: str) -> None:
    done = subprocess.run([command(program), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{program} 0.1.0\n"


@pytest.mark.parametrize("listing", ["status", "jobs", "peers", "payments"])
def test_every_listing_of_the_coordinator_is_there_as_json_and_for_people(
    running: LocalNetwork, listing: str
) -> None:
    home = str(running.programs["coordinator"].home)
    assert isinstance(running.ask("coordinator", listing), list | dict)
    for words in ([listing, "--data-dir", home], ["--data-dir", home, listing]):
        done = subprocess.run([command("cyxcoordinator"), *words], capture_output=True, text=True, check=True)
        assert done.stdout.strip()


def test_every_listing_of_the_engine_is_there_as_json(running: LocalNetwork) -> None:
    assert running.ask_engine("jobs") == []
    assert running.ask_engine("wallet", "show")["units"] == 100 * 10**9
    assert [entry["change"] for entry in running.ask_engine("wallet", "history")] == [100 * 10**9]
    elsewhere = [command("cyxwiz"), "wallet", "show", "--json", "--data-dir", str(running.engine_home)]
    done = subprocess.run(elsewhere, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == running.ask_engine("wallet", "show")


def test_a_peers_status_is_there_as_json(running: LocalNetwork) -> None:
    status = running.ask("peer", "status")
    assert (status["registered"], status["jobs"], status["price_per_hour"]) == (True, [], 10 * 10**9)


def test_a_second_program_on_the_same_directory_says_so(running: LocalNetwork) -> None:
    for name, program in running.programs.items():
        words = program.arguments[1:]
        assert f"{program.home} is in use by cyx{name} (process " in refused(f"cyx{name}", *words)
    chain = running.programs["coordinator"].home / "chain"
    text = refused("cyxcoordinator", "chain", "--data-dir", str(chain))
    assert f"{chain} is in use by the embedded chain" in text


def test_a_second_program_on_the_same_port_says_so(running: LocalNetwork, tmp_path: Path) -> None:
    taken = running.address.rpartition("/p2p/")[0]
    text = refused("cyxcoordinator", "start", "--data-dir", str(tmp_path / "c"), "--listen", taken)
    assert text.endswith(f"another process listens at {taken}")
    words = ("--coordinator", running.address, "--price", "1", "--gpus", "none", "--listen", taken)
    text = refused("cyxpeer", "start", "--data-dir", str(tmp_path / "p"), *words)
    assert text.endswith(f"another process listens at {taken}")


@pytest.mark.parametrize("program", ["cyxpeer", "cyxcoordinator"])
def test_asking_a_program_that_does_not_run_says_so(program: str, tmp_path: Path) -> None:
    assert "no program runs here: nothing listens at" in refused(
        program, "status", "--data-dir", str(tmp_path)
    )


@pytest.mark.parametrize("budget", ["abc", "-1", "0.0000000001", "1e3", "nan", "5,0", "", "99999999999"])
def test_a_budget_that_is_no_amount_is_refused(
    running: LocalNetwork, graph: Path, stripes: Path, budget: str
) -> None:
    words = ("submit", str(graph), "--data", str(stripes), "--budget", budget)
    text = refused("cyxwiz", "--data-dir", str(running.engine_home), *words)
    assert text.startswith(f"cyxwiz: budget {budget!r} is no amount, allowed a number")


def test_an_estimate_fails_where_the_budget_is_below_it(
    running: LocalNetwork, graph: Path, stripes: Path
) -> None:
    words = ("estimate", str(graph), "--data", str(stripes), "--budget")
    [quote] = running.ask_engine(*words, "5")["quotes"]
    assert quote["amount"] > 1000
    text = refused("cyxwiz", "--data-dir", str(running.engine_home), *words, "0.000001")
    assert "budget 0.000001 CYXWIZ, the cheapest acceptable quote is " in text


def test_a_wrong_coordinator_is_refused_in_words(running: LocalNetwork, graph: Path, stripes: Path) -> None:
    def estimate(address: str) -> str:
        words = ("estimate", str(graph), "--data", str(stripes), "--coordinator", address)
        return refused("cyxwiz", "--data-dir", str(running.directory / "lost"), *words)

    own, _, peer_id = running.address.rpartition("/p2p/")
    assert "allowed a multiaddress" in estimate("localhost")
    assert "allowed a multiaddress" in estimate(own)
    assert f"found peer {peer_id} there, allowed is {STRANGER}" in estimate(f"{own}/p2p/{STRANGER}")
    nowhere = LOOPBACK.replace("/0", "/1")
    assert "the coordinator does not answer" in estimate(f"{nowhere}/p2p/{STRANGER}")


def test_a_bad_file_is_refused_in_words(running: LocalNetwork, graph: Path, tmp_path: Path) -> None:
    home = ("cyxwiz", "--data-dir", str(running.engine_home))
    (tmp_path / "graph.json").write_text("{")
    np.savez(tmp_path / "digits.npz", images=np.zeros((2, 1, 8, 8), np.float32))
    text = refused(*home, "check", str(tmp_path / "graph.json"))
    assert text.startswith("cyxwiz: graph.json: not JSON")
    text = refused(*home, "submit", str(graph), "--data", str(tmp_path / "digits.npz"), "--budget", "1")
    assert text == "cyxwiz: digits.npz: found arrays images, needed are x and y"
    assert "does not exist" in refused(*home, "check", str(tmp_path / "nothing.json"))


def test_an_idle_coordinator_holds_less_than_150_megabytes(running: LocalNetwork) -> None:
    process = running.programs["coordinator"].process
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text()
    held_kib = int(status.split("VmRSS:")[1].split()[0])
    assert held_kib * 1024 < 150e6
