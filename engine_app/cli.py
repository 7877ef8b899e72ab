"""The ``cyxwiz`` command. Each subcommand loads what it needs when it runs, so that help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine_app.app_cli import app, open_window_or_help
from engine_app.arguments import DATA, NEW_FILE, OLD_FILE
from engine_app.chat_cli import chat
from engine_app.code_cli import code, import_code
from engine_app.command_list import SECTIONS
from engine_app.data_cli import data
from engine_app.deploy_cli import deploy, deployments
from engine_app.export_cli import FILE_COMMANDS
from engine_app.gateway_cli import gateway
from engine_app.serve_cli import keys, serve
from engine_app.train_cli import TRAINING_COMMANDS, config_of, partial_option, start_option

as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
coordinator_option = click.option(
    "--coordinator", metavar="ADDR", help="Multiaddress of the coordinator; default: the one used last."
)
upload_option = click.option(
    "--upload-limit", metavar="BYTES", help="A second, of all file transfers, such as 20M."
)
download_option = click.option("--download-limit", metavar="BYTES", help="The same for what comes in.")
storage_option = click.option(
    "--storage", metavar="BYTES", help="What files may take on disk, such as 100G: old ones give way."
)
data_option = click.option(
    "--data", required=True, type=DATA, help="Samples and targets; `cyxwiz data --help` says which files."
)


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"cyxwiz {version('cyxwiz')}")
        context.exit()


class _Commands(click.Group):
    """Takes --data-dir before and after the name of a command."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        for each in cmd.commands.values() if isinstance(cmd, click.Group) else (cmd,):
            each.params.append(
                click.Option(
                    ["--data-dir"], metavar="DIR", expose_value=False, callback=_data_dir, hidden=True
                )
            )
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        """An error that is no fault of ours ends any command with one line."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from engine_app.entry import report

            report(error)


def _data_dir(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.obj = value


class _Main(_Commands):
    """Lists its commands by what one wants to do."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(len(name) for name in self.commands)
        for title, words in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(longest), text) for name, text in words.items()])


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version."
)
@click.option("--data-dir", metavar="DIR", help="Default: ~/.cyxwiz/engine.")
@click.pass_context
def main(context: click.Context, data_dir: str | None) -> None:
    """Draw a neural network, train it here or at a peer, and let it answer.

    Without a command: the window.
    """
    context.obj = data_dir
    if context.invoked_subcommand is None:
        open_window_or_help(context)


main.add_command(app)
main.add_command(data)
main.add_command(serve)
main.add_command(gateway)
main.add_command(deploy)
main.add_command(deployments)
main.add_command(keys)
main.add_command(chat)
main.add_command(code)
for command in (*TRAINING_COMMANDS, *FILE_COMMANDS):
    main.add_command(command)
main.add_command(import_code)

# -- graphs ------------------------------------------------------------------------------------


@main.command()
@click.option("--category", metavar="C", help="Only those of a category; a part of its name will do.")
@click.option("--search", metavar="WORD", help="Only those that a word is about, such as rope or skip.")
@as_json
def nodes(category: str | None, search: str | None, as_json: bool) -> None:
    """List the node types that a graph can be made of."""
    from engine_app.nodes import list_nodes

    list_nodes(category, search, as_json)


@main.command()
@click.argument("name")
@as_json
def node(name: str, as_json: bool) -> None:
    """Explain the node type NAME: ports, parameters, shapes, an example."""
    from engine_app.nodes import explain_node

    explain_node(name, as_json)


@main.command()
@click.argument("graph", type=OLD_FILE)
@click.option("--data", type=DATA, help="Check the graph against this data too, and estimate its training.")
@click.option("--measure", metavar="DEVICE", help="With --data: time some steps on cpu, cuda:0 ...")
@as_json
def check(graph: Path, data: Path | None, measure: str | None, as_json: bool) -> None:
    """Say what is wrong with GRAPH, how large it is, and what training it takes."""
    from engine_app.graphs import check_graph

    if measure is not None and data is None:
        raise click.UsageError("--measure needs --data")
    check_graph(graph, data, measure, as_json)


def private_parts(text: str) -> tuple[str, ...]:
    """Raises click.UsageError."""
    parts = () if text == "none" else tuple(dict.fromkeys(text.split(",")))
    if unknown := set(parts) - {"test", "validation"}:
        found = ", ".join(sorted(unknown))
        raise click.UsageError(f"--private: found {found!r}, allowed are test, validation and none")
    return parts


# -- jobs --------------------------------------------------------------------------------------


@main.command()
@click.argument("graph", type=OLD_FILE)
@data_option
@click.option("--budget", metavar="CYXWIZ", help="Fail if no peer would do it for this much, such as 2.5.")
@coordinator_option
@click.option("--segments", type=click.IntRange(1, 1000), default=4, show_default=True)
@as_json
@click.pass_context
def estimate(
    context: click.Context,
    graph: Path,
    data: Path,
    budget: str | None,
    coordinator: str | None,
    segments: int,
    as_json: bool,
) -> None:
    """What training GRAPH would cost, at which peer."""
    from engine_app import jobs

    jobs.estimate(config_of(context, coordinator), jobs.Order(graph, data, budget, segments), as_json)


@main.command()
@click.argument("graph", type=OLD_FILE)
@data_option
@click.option("--budget", metavar="CYXWIZ", help="The most it may cost, such as 2.5. Needed without --lan.")
@click.option("--lan", metavar="PEER", help="Train unpaid on the own network: any, a peer's id or address.")
@coordinator_option
@click.option(
    "--segments",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="Work is paid for in so many parts; neither side ever risks more than one.",
)
@click.option("--stream", is_flag=True, help="The data stays here; the peer gets rows of it while it trains.")
@click.option(
    "--private",
    metavar="PARTS",
    help="With --stream, what never leaves and is evaluated here: test (default), validation, both with a "
    "comma, or none.",
)
@start_option
@partial_option
@click.option("--follow", is_flag=True, help="Stay until the job is over.")
@upload_option
@download_option
@storage_option
@as_json
@click.pass_context
def submit(
    context: click.Context,
    /,
    graph: Path,
    data: Path,
    budget: str | None,
    lan: str | None,
    coordinator: str | None,
    segments: int,
    stream: bool,
    private: str | None,
    start: Path | None,
    partial: bool,
    follow: bool,
    as_json: bool,
    **limits: str | None,
) -> None:
    """Have GRAPH trained by a peer, on data that this machine sends to it.

    Without --follow it stays until the peer is training; the peer then pauses after one segment
    until `cyxwiz follow` checks and pays it. With --lan it trains on and keeps the model.
    """
    from engine_app import jobs

    if (budget is None) == (lan is None):
        raise click.UsageError("either --budget, for a paid job, or --lan, for an unpaid one")
    if partial and start is None:
        raise click.UsageError("--partial needs --from")
    if private is not None and not stream:
        raise click.UsageError("--private needs --stream: a data file that is sent is sent as a whole")
    parts = private_parts(private if private is not None else "test")
    order = jobs.Order(graph, data, budget, segments, lan, stream, parts, start, partial)
    jobs.submit(config_of(context, coordinator, **limits), order, follow=follow, as_json=as_json)


@main.command("id")
@as_json
@click.pass_context
def show_id(context: click.Context, as_json: bool) -> None:
    """Print this Engine's id, by which a peer's owner lets it in: cyxpeer allow ID."""
    from engine_app import jobs

    jobs.show_id(config_of(context), as_json)


@main.command("peers")
@click.option("--lan", is_flag=True, help="Those of the own network, without any coordinator.")
@coordinator_option
@as_json
@click.pass_context
def list_peers(context: click.Context, lan: bool, coordinator: str | None, as_json: bool) -> None:
    """List peers: what they have, and whether they would work for you."""
    from engine_app import jobs

    jobs.list_peers(config_of(context, coordinator), lan, as_json)


@main.command("jobs")
@coordinator_option
@as_json
@click.pass_context
def list_jobs(context: click.Context, coordinator: str | None, as_json: bool) -> None:
    """List the jobs of this data directory, newest first."""
    from engine_app import jobs

    jobs.list_jobs(config_of(context, coordinator), as_json)


@main.command()
@click.argument("job")
@coordinator_option
@upload_option
@download_option
@storage_option
@as_json
@click.pass_context
def follow(
    context: click.Context, /, job: str, coordinator: str | None, as_json: bool, **limits: str | None
) -> None:
    """Tell JOB's story from its beginning and go on with it until it is over."""
    from engine_app import jobs

    jobs.follow(config_of(context, coordinator, **limits), job, as_json)


def _order(name: str, help_text: str) -> None:
    @main.command(name, help=help_text)
    @click.argument("job")
    @coordinator_option
    @as_json
    @click.pass_context
    def command(context: click.Context, job: str, coordinator: str | None, as_json: bool) -> None:
        from engine_app.training_queue import is_local

        if is_local(job):
            from engine_app import training_control

            training_control.order(config_of(context), name, job, as_json)
        else:
            from engine_app import jobs

            jobs.order(config_of(context, coordinator), name, job, as_json)


_order("cancel", "Stop JOB; what is proven stays paid, the rest comes back. JOB may be a local-N.")
_order("pause", "Stop JOB's training for now; the peer keeps its place. JOB may be a local-N.")
_order("resume", "Let JOB's training go on. A local-N that was cut short goes on here.")


@main.command()
@click.argument("job")
@click.option("-o", "--output", type=NEW_FILE, help="Default: JOB's name with the ending .cyxmodel.")
@coordinator_option
@upload_option
@download_option
@storage_option
@as_json
@click.pass_context
def fetch(
    context: click.Context,
    /,
    job: str,
    output: Path | None,
    coordinator: str | None,
    as_json: bool,
    **limits: str | None,
) -> None:
    """Write JOB's trained model, checked, to a file. Waits for a job that still runs."""
    from engine_app import jobs

    jobs.fetch(config_of(context, coordinator, **limits), job, output, as_json)


@main.command()
@click.argument("deployment", required=False)
@click.option("--peer", metavar="PEER", help="Ask only there; in place of DEPLOYMENT with --model.")
@click.option("--model", metavar="HASH", help="BLAKE3 of a model that --peer has trained, as follow tells.")
@click.option(
    "--input",
    "source",
    required=True,
    type=OLD_FILE,
    help="A .npy, first dimension the batch; a .npz of a deployment's named inputs.",
)
@click.option("-o", "--output", type=NEW_FILE, help="A .npz of all outputs, or a .npy with --model.")
@coordinator_option
@as_json
@click.pass_context
def infer(
    context: click.Context,
    deployment: str | None,
    peer: str | None,
    model: str | None,
    source: Path,
    output: Path | None,
    coordinator: str | None,
    as_json: bool,
) -> None:
    """Ask the model of DEPLOYMENT, or one that a job has trained, for its outputs."""
    from engine_app import asking

    config = config_of(context, coordinator)
    if deployment is not None and model is None:
        asking.infer(config, deployment, peer, source, output, as_json)
    elif deployment is None and peer is not None and model is not None:
        asking.infer_trained(config, asking.Question(peer, model, source, output), as_json)
    else:
        raise click.UsageError("either a DEPLOYMENT, or --peer and --model")


# -- wallet ------------------------------------------------------------------------------------


@main.group(cls=_Commands)
def wallet() -> None:
    """The key that pays for jobs."""


@wallet.command("new")
@click.option("--encrypt", is_flag=True, help="Ask for a passphrase (or take CYXWIZ_PASSPHRASE).")
@as_json
@click.pass_context
def wallet_new(context: click.Context, encrypt: bool, as_json: bool) -> None:
    """Make a wallet in the data directory. Never overwrites one."""
    from engine_app import wallets

    wallets.create(config_of(context), encrypt, as_json)


@wallet.command("show")
@coordinator_option
@as_json
@click.pass_context
def wallet_show(context: click.Context, coordinator: str | None, as_json: bool) -> None:
    """Show the wallet's address and what it holds."""
    from engine_app import wallets

    wallets.show(config_of(context, coordinator), as_json)


@wallet.command("airdrop")
@click.argument("amount", default="100")
@coordinator_option
@as_json
@click.pass_context
def wallet_airdrop(context: click.Context, amount: str, coordinator: str | None, as_json: bool) -> None:
    """Take AMOUNT test tokens, and SOL for fees, from an embedded chain."""
    from engine_app import wallets

    wallets.airdrop(config_of(context, coordinator), amount, as_json)


@wallet.command("history")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@coordinator_option
@as_json
@click.pass_context
def wallet_history(context: click.Context, limit: int, coordinator: str | None, as_json: bool) -> None:
    """List the wallet's newest transactions."""
    from engine_app import wallets

    wallets.history(config_of(context, coordinator), limit, as_json)


@wallet.command("backup")
@click.argument("file", type=NEW_FILE)
@click.pass_context
def wallet_backup(context: click.Context, file: Path) -> None:
    """Write a copy of the wallet to FILE (mode 0600; sealed if CYXWIZ_PASSPHRASE is set)."""
    from engine_app import wallets

    wallets.backup(config_of(context), file)


@wallet.command("restore")
@click.argument("file", type=OLD_FILE)
@as_json
@click.pass_context
def wallet_restore(context: click.Context, file: Path, as_json: bool) -> None:
    """Install the wallet that FILE is a copy of. Never overwrites one."""
    from engine_app import wallets

    wallets.restore(config_of(context), file, as_json)


if __name__ == "__main__":
    main()
