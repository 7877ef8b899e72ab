"""``cyxwiz gateway``: one local port for models here and at peers, and who may see what is asked of them."""

from __future__ import annotations

from pathlib import Path

import click

from engine_app.arguments import OLD_FILE_OR_FOLDER
from engine_app.serve_cli import SECTIONS, serving_options
from p2p.help_sections import SectionedCommand

_SEES = "The peer that serves a model sees everything that is asked of it, and what it answers."

_SECTIONS: dict[str, tuple[str, ...]] = {
    "Deployments at peers": ("deployments", "every", "allowed", "coordinator", "lan"),
    "Models here": ("replicas", *SECTIONS["The models"]),
    **{title: names for title, names in SECTIONS.items() if title != "The models"},
}
_SECTIONS["How much at a time"] = ("connections", *_SECTIONS["How much at a time"])


class _ModelsOrCommand(click.Group):
    """``gateway MODEL...`` runs; ``gateway allow`` and its like are commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS] [MODEL]..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those of a gateway that runs, and then the commands beside it."""
        self.commands["run"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_ModelsOrCommand, epilog=_SEES)
def gateway() -> None:
    """Answer HTTP at one port for MODELs, each in a worker of its own, and for deployments at peers.

    /v1/predict, the Open Inference Protocol (/v2), the OpenAI API, /metrics, /openapi.json and a page at /.
    Requests go to whichever endpoint of a model is expected to answer first, and to another one where
    nothing was answered. Beyond loopback every request needs a key: see `cyxwiz keys`.
    """


@gateway.command("run", hidden=True, cls=SectionedCommand, sections=_SECTIONS)
@click.argument("models", nargs=-1, type=OLD_FILE_OR_FOLDER)
@click.option(
    "--deployment",
    "deployments",
    multiple=True,
    metavar="ID|NAME",
    help="Of yours at peers; goes on and is paid while this runs. Those of one name are replicas.",
)
@click.option("--all", "every", is_flag=True, help="All of your deployments, also later ones.")
@click.option(
    "--coordinator", metavar="ADDR", help="Multiaddress of the coordinator; default: the one used last."
)
@click.option("--lan", is_flag=True, help="Wait for no coordinator: the peers are of the own network.")
@click.option(
    "--allow-prompts", "allowed", multiple=True, metavar="PEER", help="Let it see prompts during this run."
)
@click.option(
    "--connections", default=512, show_default=True, type=click.IntRange(1, 65536), help="Clients at once."
)
@click.option(
    "--replicas", default=1, show_default=True, type=click.IntRange(1, 64), help="Workers of each MODEL."
)
@serving_options
@click.pass_context
def run_(
    context: click.Context,
    /,
    models: tuple[Path, ...],
    coordinator: str | None,
    **options: object,
) -> None:
    """What `cyxwiz gateway MODEL...` does."""
    from engine_app.config import ConfigError, read_config
    from engine_app.entry import CommandError, report
    from engine_app.gateway.running import read_gateway_order, run_gateway

    try:
        config = read_config(context.obj, coordinator)
        run_gateway(config, read_gateway_order(models, options))
    except (ConfigError, CommandError) as error:
        report(error)


@gateway.command(epilog=_SEES)
@click.argument("peers", metavar="PEER...", nargs=-1, required=True)
@click.pass_context
def allow(context: click.Context, peers: tuple[str, ...]) -> None:
    """Let PEER see what is asked of its models.

    In all gateways of this user.
    """
    from engine_app.gateway.running import allow_peers

    allow_peers(context.obj, peers)


@gateway.command()
@click.argument("peers", metavar="PEER...", nargs=-1, required=True)
@click.pass_context
def forbid(context: click.Context, peers: tuple[str, ...]) -> None:
    """Send PEER nothing from now on.

    Not even for what is deployed there; also in gateways that run.
    """
    from engine_app.gateway.running import forbid_peers

    forbid_peers(context.obj, peers)


@gateway.command("allowed", epilog=_SEES)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
@click.pass_context
def allowed_(context: click.Context, as_json: bool) -> None:
    """List who may see what is asked, and who may not."""
    from engine_app.gateway.running import list_allowed

    list_allowed(context.obj, as_json)
