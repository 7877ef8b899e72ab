"""``cyxcoordinator``: starts a coordinator, or asks one that runs. Imports nothing heavy before it must."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from p2p.plain import plain

DATA_DIR = "~/.cyxwiz/coordinator"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


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
@click.version_option(package_name="cyxwiz", prog_name="cyxcoordinator", message="%(prog)s %(version)s")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="As of each command.")
@click.pass_context
def cli(context: click.Context, data_dir: Path | None) -> None:
    """Introduces Engines to peers, vouches for them and settles what is owed."""
    if data_dir is not None:
        context.default_map = {name: {"data_dir": data_dir} for name in cli.commands}


@cli.command()
@data_dir_option
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Default: /ip4/0.0.0.0/tcp/4400.")
@click.option("--solana-rpc", metavar="URL", help="Pay on a network of others; default: the embedded chain.")
@click.option("--program-id", metavar="ADDRESS", help="Of the escrow program there; with --solana-rpc.")
@click.option("--heartbeat", type=click.FloatRange(0.05, 600), default=5.0, show_default=True)
@click.option("--lease", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True)
@click.option("--offer", type=click.FloatRange(0.1, 600), default=5.0, help="For a peer to answer an offer.")
@click.option("--fund", type=click.FloatRange(1, 3600), default=60.0, help="For a user to fund the escrow.")
@click.option("--claim-window", type=click.IntRange(1, 86400), default=60, show_default=True)
@click.option("--retry-patience", type=click.FloatRange(0, 86400), default=120.0, show_default=True)
@click.option("--relay/--no-relay", default=True, help="Join peers behind NAT to Engines. [default: yes]")
@click.option("--relay-circuits", type=click.IntRange(1, 100_000), default=128, show_default=True)
@click.option("--relay-peers", type=click.IntRange(1, 100_000), default=512, help="Peers kept reachable.")
@click.option("--relay-megabytes", type=click.IntRange(1, 1 << 20), default=64, help="Of a circuit, a way.")
@click.option("--relay-seconds", type=click.IntRange(1, 86400), default=600, help="That a circuit may last.")
@click.option("--relay-rate", type=click.FloatRange(0.01), default=4.0, help="Megabytes a second of each.")
@click.option("--relay-total-rate", type=click.FloatRange(0.01), default=64.0, help="The same of all.")
@click.option("--chain-host", default="127.0.0.1", help="Where the embedded chain listens.")
@click.option("--chain-slot-ms", type=click.IntRange(10, 10_000), default=400, show_default=True)
@click.option("--limit", multiple=True, metavar="NAME=VALUE", help="What strangers may cost; see README.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.option("--log-json", is_flag=True, help="One JSON object a line.")
def start(data_dir: Path, log_level: str, log_json: bool, **flags: Any) -> None:
    """Run a coordinator until interrupted. Times are in seconds."""
    # sqlite_utils loads these two wherever they are installed; a coordinator needs neither, nor 40 MB.
    sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]
    from coordinator.config import DEFAULT_LISTEN, Config, check_config
    from coordinator.daemon import run
    from p2p.limits import parse_limits
    from p2p.logs import configure_logging

    configure_logging(log_level, log_json)
    config = Config(
        data_dir=data_dir,
        listen=tuple(flags["listen"]) or DEFAULT_LISTEN,
        solana_rpc=flags["solana_rpc"] or "",
        program_id=flags["program_id"] or "",
        heartbeat_s=flags["heartbeat"],
        lease_s=flags["lease"],
        offer_s=flags["offer"],
        fund_s=flags["fund"],
        claim_window_s=flags["claim_window"],
        retry_patience_s=flags["retry_patience"],
        chain_slot_ms=flags["chain_slot_ms"],
        limits=parse_limits(flags["limit"]),
        chain_host=flags["chain_host"],
        relay=_relay_limits(flags),
    )
    run(check_config(config))


def _relay_limits(flags: dict[str, Any]) -> Any:
    from p2p.relay.book import RelayLimits

    if not flags["relay"]:
        return None
    return RelayLimits(
        reservations=flags["relay_peers"],
        circuits=flags["relay_circuits"],
        circuit_s=float(flags["relay_seconds"]),
        circuit_bytes=flags["relay_megabytes"] << 20,
        bytes_per_s=flags["relay_rate"] * (1 << 20),
        bytes_per_s_of_all=flags["relay_total_rate"] * (1 << 20),
    )


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
_question("peers", "All peers that registered.")
_question("payments", "All escrows and what became of them.")


@cli.command("jobs")
@data_dir_option
@click.option("--metrics", metavar="JOB", help="The training curve of one job instead.")
@as_json
def list_jobs(data_dir: Path, metrics: str | None, as_json: bool) -> None:
    """All jobs, newest first."""
    if metrics is None:
        _answer(data_dir, "jobs", {}, as_json)
    else:
        _answer(data_dir, "metrics", {"job": metrics}, as_json)


def _question_about_job(name: str, help_text: str) -> None:
    @cli.command(name, help=help_text)
    @click.argument("job")
    @data_dir_option
    @as_json
    def command(job: str, data_dir: Path, as_json: bool) -> None:
        _answer(data_dir, name, {"job": job}, as_json)


_question_about_job("explain", "Why JOB is where it is: its peer, who was passed over, why it waits.")


@cli.command()
@click.argument("whose", metavar="JOB|ENGINE")
@data_dir_option
@as_json
def revoke(whose: str, data_dir: Path, as_json: bool) -> None:
    """Take back the access tokens of a job, or of an Engine, before they expire."""
    _answer(data_dir, "revoke", {"whose": whose}, as_json)


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
        click.echo(f"cyxcoordinator: {plain(known, lines=True)}", err=True)
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
