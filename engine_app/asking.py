"""The commands that ask a model for its outputs: of a deployment, or of a trained model at its peer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine_app.config import Config
from engine_app.jobs import with_session
from engine_app.plain import plain
from engine_app.sessions import Session
from engine_app.show import print_json


@dataclass(frozen=True, slots=True)
class Question:
    peer: str
    model: str
    source: Path
    target: Path | None


def infer(
    config: Config, deployment: str, peer: str | None, source: Path, target: Path | None, as_json: bool
) -> None:
    """With ``peer`` only there."""

    async def use(session: Session) -> None:
        with TemporaryDirectory() as directory:
            output = target or Path(directory) / "outputs.npz"
            answer = await session.ask(
                "predict", deployment=deployment, peer=peer, source=str(source), target=str(output)
            )
            _show_outputs(answer, output, target is None, as_json)

    with_session(config, use)


def _show_outputs(answer: dict[str, Any], target: Path, inline: bool, as_json: bool) -> None:
    import numpy

    if as_json and not inline:
        print_json(answer)
        return
    with numpy.load(target, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    if as_json:
        values = {name: array.tolist() for name, array in arrays.items()}
        print_json({"outputs": answer["outputs"], "duration_s": answer["duration_s"], "values": values})
        return
    for name, array in arrays.items():
        print(f"{plain(name)}  {array.dtype} {array.shape}")
        if inline:
            print(numpy.array2string(array, precision=4, threshold=200))
    if not inline:
        print(f"{target}  in {answer['duration_s']:.3f} s")


def infer_trained(config: Config, question: Question, as_json: bool) -> None:
    async def use(session: Session) -> None:
        with TemporaryDirectory() as directory:
            target = question.target or Path(directory) / "output.npy"
            answer = await session.ask(
                "infer",
                peer=question.peer,
                model=question.model,
                source=str(question.source),
                target=str(target),
            )
            _show_output(answer, target, question.target is None, as_json)

    with_session(config, use)


def _show_output(answer: dict[str, Any], target: Path, inline: bool, as_json: bool) -> None:
    import numpy

    if not inline:
        if as_json:
            print_json(answer)
        else:
            print(f"{target}  {answer['dtype']} {tuple(answer['shape'])} in {answer['duration_s']:.3f} s")
        return
    values = numpy.load(target, allow_pickle=False)
    if as_json:
        shown = {name: value for name, value in answer.items() if name != "output"}
        print_json({**shown, "values": values.tolist()})
    else:
        print(numpy.array2string(values, precision=4, threshold=200))
