"""Training on this machine: ``cyxwiz train`` and what looks after such trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine_app.arguments import DATA, DEVICE, DEVICES, NEW_FILE, OLD_FILE, START_FILE, Number

NEW_DIRECTORY = click.Path(file_okay=False, path_type=Path, resolve_path=True)
as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
device_option = click.option(
    "--device", default="cpu", show_default=True, type=DEVICE, help="As torch names it: cpu, cuda:0."
)
devices_option = click.option(
    "--device", "--devices", "device", default="cpu", show_default=True, type=DEVICES,
    help="As torch names it: cpu, cuda:0. Several, such as cuda:0,cuda:1, train as one.",
)  # fmt: skip
data_option = click.option(
    "--data", required=True, type=DATA, help="Samples and targets; `cyxwiz data --help` says which files."
)
RATE = Number(1e-10, 100.0)
start_option = click.option(
    "--from", "start", type=START_FILE, help="A .cyxmodel with whose weights it begins, by node."
)
partial_option = click.option(
    "--partial", is_flag=True, help="With --from: take what fits, and begin the rest afresh."
)
at_once_option = click.option("--at-once", is_flag=True, help="Do not wait for other local trainings.")


def config_of(context: click.Context, coordinator: str | None = None, **limits: str | None) -> Any:
    """What the command was told. Raises ConfigError."""
    from engine_app.config import read_config

    return read_config(context.obj, coordinator, **limits)


@click.command()
@click.argument("graph", type=OLD_FILE, required=False)
@click.option("--data", type=DATA, help="Samples and targets; `cyxwiz data --help` says which files.")
@click.option("-o", "--output", type=NEW_FILE, help="Default: GRAPH with the ending .cyxmodel.")
@devices_option
@at_once_option
@start_option
@partial_option
@click.option("--tensorboard", type=NEW_DIRECTORY, metavar="DIR", help="Write the curve there as events too.")
@click.option("--resume", is_flag=True, help="Go on with the newest training (of GRAPH) that was cut short.")
@as_json
@click.pass_context
def train(
    context: click.Context,
    graph: Path | None,
    data: Path | None,
    output: Path | None,
    device: str,
    at_once: bool,
    start: Path | None,
    partial: bool,
    tensorboard: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train GRAPH on this machine. Ctrl-C pauses; a second Ctrl-C stops, --resume goes on.

    One training at a time: another one waits for its turn. `cyxwiz trainings` lists them.
    """
    from engine_app import local_training

    config = config_of(context)
    if resume:
        local_training.resume_newest(config, graph, at_once, as_json)
        return
    if graph is None or data is None:
        raise click.UsageError("a training needs GRAPH and --data; --resume alone goes on with one")
    if partial and start is None:
        raise click.UsageError("--partial needs --from")
    output = output or graph.with_suffix(".cyxmodel")
    wish = local_training.Wish(graph, data, output, device, at_once, start, partial, tensorboard)
    local_training.train_here(config, wish, as_json)


@click.command()
@as_json
@click.pass_context
def trainings(context: click.Context, as_json: bool) -> None:
    """List the trainings of this machine that run, wait or were cut short."""
    from engine_app.training_control import list_trainings

    list_trainings(config_of(context), as_json)


@click.command("find-rate")
@click.argument("graph", type=OLD_FILE)
@data_option
@click.option(
    "--steps",
    type=click.IntRange(10, 1000),
    default=100,
    show_default=True,
    help="Rates to try, one a training step.",
)
@click.option("--lowest", type=RATE, default=1e-6, show_default=True)
@click.option("--highest", type=RATE, default=1.0, show_default=True)
@click.option("-o", "--output", type=NEW_FILE, help="Write GRAPH with the suggested rate to this file.")
@start_option
@partial_option
@device_option
@at_once_option
@as_json
@click.pass_context
def find_rate(context: click.Context, /, as_json: bool, **wish: Any) -> None:
    """Try growing learning rates on GRAPH, and suggest the one at which the loss falls fastest."""
    from engine_app import rate_search

    rate_search.find_rate(config_of(context), rate_search.RateWish(**wish), as_json)


@click.command("set-rate")
@click.argument("job")
@click.argument("rate", type=RATE)
@click.option("--coordinator", metavar="ADDR", help="Multiaddress of the coordinator of JOB.")
@as_json
@click.pass_context
def set_rate(context: click.Context, job: str, rate: float, coordinator: str | None, as_json: bool) -> None:
    """Let JOB, or local-N, train on at another learning RATE; schedules go on multiplying it."""
    from engine_app.training_queue import is_local

    config = config_of(context, coordinator)
    if is_local(job):
        from engine_app import training_control

        training_control.order(config, "set_rate", job, as_json, rate=rate)
    else:
        from engine_app import jobs

        jobs.order(config, "set_rate", job, as_json, rate=rate)


@click.command()
@click.argument("graph", type=OLD_FILE, required=False)
@click.option("--data", type=DATA, help="Samples and targets; `cyxwiz data --help` says which files.")
@click.option("--vary", multiple=True, metavar="NODE.PARAMETER=…", help="LOW..HIGH, LOW..HIGH:log or a,b,c.")
@click.option("--trials", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--minutes", type=Number(0, min_open=True), help="After which no trial goes on.")
@click.option(
    "--metric",
    type=click.Choice(["validation_loss", "validation_accuracy"]),
    default="validation_loss",
    show_default=True,
)
@click.option("-o", "--output", type=NEW_FILE, help="The best graph; default: GRAPH.best.json.")
@device_option
@at_once_option
@click.option("--resume", is_flag=True, help="Go on with the newest sweep (of GRAPH) that was cut short.")
@as_json
@click.pass_context
def sweep(
    context: click.Context,
    /,
    graph: Path | None,
    data: Path | None,
    output: Path | None,
    vary: tuple[str, ...],
    at_once: bool,
    resume: bool,
    as_json: bool,
    **wish: Any,
) -> None:
    """Train GRAPH again and again with other parameters, and keep the best graph and its model.

    What to try follows from the trials before (TPE); a trial worse than half of the others stops early.
    """
    from engine_app import sweep as sweeping

    config = config_of(context)
    if resume:
        sweeping.resume_sweep(config, None, graph, at_once, as_json)
        return
    if graph is None or data is None or not vary:
        raise click.UsageError("a sweep needs GRAPH, --data and --vary; --resume alone goes on with one")
    target = output or graph.with_suffix(".best.json")
    order = sweeping.SweepWish(graph=graph, data=data, output=target, vary=vary, at_once=at_once, **wish)
    sweeping.sweep(config, order, as_json)


TRAINING_COMMANDS: tuple[click.Command, ...] = (train, trainings, find_rate, set_rate, sweep)
