"""``cyxcoordinator``: starts a coordinator, or asks one that runs. Imports nothing heavy before it must."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

DATA_DIR = "~/.cyxwiz/coordinator"


def _use_config_file(context: click.Context, _: click.Parameter, value: Path) -> Path:
    """Lines of DATA_DIR/config.toml, such as ``heartbeat = 2``, stand in for flags that are not given."""
    from coordinator.config import CONFIG_NAME, read_config_file

    value = value.expanduser()
    file = read_config_file(value / CONFIG_NAME)
    context.default_map = {name.replace("-", "_"): setting for name, setting in file.items()}
    return value


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA_DIR,
    show_default=True,
    is_eager=True,
    callback=_use_config_file,
    help="Where keys, jobs and the chain are; one program at a time.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CYXCOORDINATOR"})
@click.version_option(package_name="cyxwiz", prog_name="cyxcoordinator")
def cli() -> None:
    """Introduces Engines to peers, vouches for them and settles what is owed."""


@cli.command()
@data_dir_option
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Default: /ip4/0.0.0.0/tcp/4400.")
@click.option("--solana-rpc", metavar="URL", help="Pay on a network of others; default: the embedded chain.")
@click.option("--program-id", metavar="ADDRESS", help="Of the escrow program there; with --solana-rpc.")
@click.option("--heartbeat", type=click.FloatRange(0.05, 600), default=5.0, show_default=True)
@click.option("--lease", type=click.FloatRange(0.1, 3600), default=20.0, show_default=True)
@click.option("--claim-window", type=click.IntRange(1, 86400), default=60, show_default=True)
@click.option("--retry-patience", type=click.FloatRange(0, 86400), default=120.0, show_default=True)
@click.option("--chain-slot-ms", type=click.IntRange(10, 10_000), default=400, show_default=True)
@click.option("--log-level", default="info", show_default=True)
def start(
    data_dir: Path,
    listen: tuple[str, ...],
    solana_rpc: str | None,
    program_id: str | None,
    heartbeat: float,
    lease: float,
    claim_window: int,
    retry_patience: float,
    chain_slot_ms: int,
    log_level: str,
) -> None:
    """Run a coordinator until interrupted. Times are in seconds."""
    from coordinator.config import DEFAULT_LISTEN, Config, check_config
    from coordinator.daemon import run
    from p2p.logs import configure_logging

    configure_logging(log_level, json=False)
    config = Config(
        data_dir=data_dir,
        listen=listen or DEFAULT_LISTEN,
        solana_rpc=solana_rpc or "",
        program_id=program_id or "",
        heartbeat_s=heartbeat,
        lease_s=lease,
        claim_window_s=claim_window,
        retry_patience_s=retry_patience,
        chain_slot_ms=chain_slot_ms,
    )
    run(check_config(config))


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def chain(arguments: tuple[str, ...]) -> None:
    """Run the embedded chain alone; --help lists its options."""
    from coordinator.chain.__main__ import main as run_chain

    run_chain(args=list(arguments), prog_name="cyxcoordinator chain")


def _question(name: str, help_text: str) -> None:
    @cli.command(name, help=help_text)
    @data_dir_option
    @as_json
    def command(data_dir: Path, as_json: bool) -> None:
        _answer(data_dir, name, {}, as_json)


def _answer(data_dir: Path, method: str, parameters: dict[str, Any], as_json: bool) -> None:
    from coordinator import show
    from coordinator.config import CONTROL_NAME
    from p2p.control import call_control_blocking

    answer = call_control_blocking(data_dir / CONTROL_NAME, method, parameters)
    show.output(answer, as_json, getattr(show, method))


_question("status", "Who it is, where it listens, which chain pays.")
_question("jobs", "All jobs, newest first.")
_question("peers", "All peers that registered.")
_question("payments", "All escrows and what became of them.")


def _question_about_job(name: str, help_text: str) -> None:
    @cli.command(name, help=help_text)
    @click.argument("job")
    @data_dir_option
    @as_json
    def command(job: str, data_dir: Path, as_json: bool) -> None:
        _answer(data_dir, name, {"job": job}, as_json)


_question_about_job("explain", "Why JOB is where it is: its peer, who was passed over, why it waits.")
_question_about_job("metrics", "The points of JOB's training curve.")


def main() -> None:
    """The console command: one clear line for an error."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        known = _known_error(error)
        if known is None:
            raise
        click.echo(f"cyxcoordinator: {known}", err=True)
        sys.exit(1)


def _known_error(error: BaseException) -> str | None:
    """The text of an error that a user can understand, also from inside a group."""
    from coordinator.errors import CoordinatorError
    from p2p.errors import P2PError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, CoordinatorError | P2PError | OSError) else None


if __name__ == "__main__":
    main()
