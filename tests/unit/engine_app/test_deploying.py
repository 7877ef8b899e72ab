from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engine_app.cli import main
from engine_app.deploying import Wanted, _parameters, _Watching, read_order
from engine_app.entry import CommandError
from engine_app.show import open_story


def wanted(**changes: Any) -> Wanted:
    fields: dict[str, Any] = {
        "model": Path("m.onnx"),
        "tokenizer": None,
        "name": "m",
        "budget": 5,
        "minutes": 7,
        "replicas": 3,
        "peers": (),
        "lan": None,
        "memory_bytes": 0,
        "gpu_layers": 0,
        "context": 0,
    }
    return Wanted(**{**fields, **changes})


def test_replicas_go_to_peers_that_have_none_yet() -> None:
    assert _parameters(wanted(), [])["deny"] == []
    assert _parameters(wanted(), ["a", "b"])["deny"] == ["a", "b"]


def test_replicas_at_named_peers_go_to_each_in_turn() -> None:
    order = wanted(peers=("a", "b"))
    assert [_parameters(order, taken)["allow"] for taken in ([], ["a"])] == [["a"], ["b"]]
    assert _parameters(order, ["a"])["deny"] == []


class Sessions:
    """Deployments that end at once, ``second`` continuing ``first``."""

    def __init__(self) -> None:
        self.followed: list[str] = []

    async def ask(self, call: str, told: Any = None, **words: Any) -> Any:
        if call == "follow":
            self.followed.append(words["job"])
            return {"job_id": words["job"], "segments_done": 1}
        state = "settled" if "second" in self.followed else "running"
        return [
            {"id": "second", "continues": "first", "state": state},
            {"id": "stopped", "continues": "first", "state": "cancelled"},
            {"id": "other", "continues": None, "state": "running"},
        ]


async def test_a_command_that_pays_for_a_deployment_stays_for_its_extension() -> None:
    session, watching = Sessions(), _Watching(as_json=True)
    with open_story(True) as story:
        await watching.watch(session, story, "first")  # type: ignore[arg-type]
    assert session.followed == list(watching.ended) == ["first", "second"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "one of --any, --peer and --lan"),
        (("--any", "--lan", "any"), "one of --any, --peer and --lan"),
        (("--any",), "either --budget, for a paid deployment, or --lan, for an unpaid one"),
        (("--lan", "any", "--budget", "1"), "either --budget"),
        (("--any", "--budget", "1"), "is unknown, served are cyxmodel, onnx, gguf"),
    ],
)
def test_what_is_missing_or_cannot_be_served_is_told(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"no model")
    arguments = ["--data-dir", str(tmp_path / "home"), "deploy", str(model), *words]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code
    assert told in result.output


def test_a_budget_that_is_no_amount_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"model": Path(__file__), "tokenizer": None, "budget": "-3", "name": None, "peers": ()}
    with pytest.raises(SystemExit):
        read_order({**options, "replicas": 1})
    assert "served are" in capsys.readouterr().err


@pytest.mark.parametrize(("state", "done"), [("refunded", 3), ("cancelled", 0)])
def test_what_was_not_served_to_its_end_says_why_and_what_came_back(state: str, done: int) -> None:
    watching = _Watching(as_json=True)
    text = "no peer could take it over in time; 1.1 CYXWIZ refunded"
    watching.ended["d"] = {"job_id": "d", "state": state, "segments_done": done, "segments": 7, "text": text}
    with pytest.raises(CommandError, match=f"deployment d is {state}, {done} of 7 periods served: {text}"):
        watching.close()
