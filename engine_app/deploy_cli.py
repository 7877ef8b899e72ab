"""``cyxwiz deploy`` and ``cyxwiz deployments``: models that peers serve, and are paid for by the minute."""

from __future__ import annotations

from typing import Any

import click

from engine_app.arguments import OLD_FILE, OLD_FILE_OR_FOLDER
from engine_app.train_cli import config_of
from p2p.help_sections import SectionedCommand

coordinator_option = click.option(
    "--coordinator", metavar="ADDR", help="Multiaddress of the coordinator; default: the one used last."
)
budget_option = click.option("--budget", metavar="CYXWIZ", help="The most that it may cost, such as 2.5.")
as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
minutes = click.IntRange(1, 1000)
SECTIONS: dict[str, tuple[str, ...]] = {
    "Where": ("anywhere", "peers", "lan", "replicas", "coordinator"),
    "For how long, for how much": ("minutes", "budget"),
    "The model": ("name", "tokenizer", "context_tokens", "gpu_layers", "memory"),
}


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.argument("model", type=OLD_FILE_OR_FOLDER)
@click.option("--any", "anywhere", is_flag=True, help="At the best peer that serves such models.")
@click.option(
    "--peer", "peers", multiple=True, metavar="PEER", help="At this one; may be given several times."
)
@click.option("--lan", metavar="PEER", help="Unpaid, on the own network: any, a peer's id or address.")
@click.option("--budget", metavar="CYXWIZ", help="The most a replica may cost. Needed without --lan.")
@click.option("--minutes", default=60, show_default=True, type=minutes, help="Paid one by one, as served.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 16), help="At so many.")
@click.option("--name", help="What requests call the model; default: its file's name.")
@click.option("--tokenizer", type=OLD_FILE, help="tokenizer.json of an ONNX model of texts.")
@click.option("--gpu-layers", default=0, type=click.IntRange(-1, 10_000), help="Of a GGUF model; -1: all.")
@click.option("--context", "context_tokens", default=0, type=click.IntRange(0, 1 << 20), help="Tokens, GGUF.")
@click.option("--memory", metavar="BYTES", help="Of its worker, such as 4G; default: by the model's size.")
@coordinator_option
@as_json
@click.pass_context
def deploy(context: click.Context, /, coordinator: str | None, as_json: bool, **options: Any) -> None:
    """Have MODEL served by a peer: a .cyxmodel, ONNX or GGUF file, or a folder with one and its tokenizer.

    The peer that serves a model sees everything that is asked of it. It waits for a peer that is free, whose
    price is within the budget; Ctrl-C and `cyxwiz deployments stop` give up. Each minute is paid once it was
    served, so this command stays until the time is over; Ctrl-C leaves the deployment, and the peer stops
    answering after a minute that nobody paid, until `cyxwiz deployments watch` goes on. Call it meanwhile
    with `cyxwiz infer`, `cyxwiz chat`, `cyxwiz gateway` or p2p.api.
    """
    from engine_app import deploying

    where = [bool(options["anywhere"]), bool(options["peers"]), options["lan"] is not None]
    if sum(where) != 1:
        raise click.UsageError("one of --any, --peer and --lan")
    if (options["budget"] is None) == (options["lan"] is None):
        raise click.UsageError("either --budget, for a paid deployment, or --lan, for an unpaid one")
    deploying.deploy(config_of(context, coordinator), deploying.read_order(options), as_json)


@click.group(invoke_without_command=True)
@coordinator_option
@as_json
@click.pass_context
def deployments(context: click.Context, coordinator: str | None, as_json: bool) -> None:
    """List deployments, newest first; or watch, extend and stop one."""
    from engine_app import deploying

    if context.invoked_subcommand is None:
        deploying.list_all(config_of(context, coordinator), as_json)


@deployments.command()
@click.argument("deployment")
@coordinator_option
@as_json
@click.pass_context
def watch(context: click.Context, deployment: str, coordinator: str | None, as_json: bool) -> None:
    """Go on paying for DEPLOYMENT, and tell its story.

    Until it is over; Ctrl-C leaves it, unpaid.
    """
    from engine_app import deploying

    deploying.watch(config_of(context, coordinator), deployment, as_json)


@deployments.command()
@click.argument("deployment")
@coordinator_option
@as_json
@click.pass_context
def status(context: click.Context, deployment: str, coordinator: str | None, as_json: bool) -> None:
    """Ask DEPLOYMENT itself how it is.

    Its requests, those that wait, times and tokens a second.
    """
    from engine_app import deploying

    deploying.status(config_of(context, coordinator), deployment, as_json)


@deployments.command()
@click.argument("deployment")
@click.option("--minutes", required=True, type=minutes, help="That are added at its end.")
@budget_option
@coordinator_option
@as_json
@click.pass_context
def extend(
    context: click.Context,
    deployment: str,
    minutes: int,
    budget: str | None,
    coordinator: str | None,
    as_json: bool,
) -> None:
    """Add minutes to DEPLOYMENT, at its peer.

    As another deployment, which takes the running model over, and is paid by whoever pays for the first.
    """
    from engine_app import deploying

    deploying.extend(config_of(context, coordinator), deployment, minutes, budget, as_json)


@deployments.command()
@click.argument("deployment")
@coordinator_option
@as_json
@click.pass_context
def stop(context: click.Context, deployment: str, coordinator: str | None, as_json: bool) -> None:
    """End DEPLOYMENT; what is not served comes back.

    What was served stays paid.
    """
    from engine_app import deploying

    deploying.stop(config_of(context, coordinator), deployment, as_json)
