"""``cyxpeer``: starts a peer, or asks one that runs. Imports nothing heavy before it must."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from p2p.help_sections import SectionedCommand
from p2p.plain import plain

DATA_DIR = "~/.cyxwiz/peer"
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA_DIR,
    show_default=True,
    envvar="CYXPEER_DATA_DIR",
    help="Where keys, jobs and files are; one program at a time.",
)


_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "auto_envvar_prefix": "CYXPEER",
    "max_content_width": 100,
}


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="cyxwiz", prog_name="cyxpeer", message="%(prog)s %(version)s")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="As of each command.")
@click.pass_context
def cli(context: click.Context, data_dir: Path | None) -> None:
    """Offers this machine's devices for training, for a price, and serves what it trained."""
    if data_dir is not None:
        context.default_map = {name: {"data_dir": data_dir} for name in cli.commands}


def _use_config_file(context: click.Context, _: click.Parameter, value: Path) -> Path:
    """Lines of DATA_DIR/config.toml, such as ``price = "0.5"``, stand in for flags that are not given."""
    from peer.config import CONFIG_NAME, read_config_file

    value = value.expanduser()
    file = read_config_file(value / CONFIG_NAME)
    context.default_map = {name.replace("-", "_"): setting for name, setting in file.items()}
    return value


SECTIONS: dict[str, tuple[str, ...]] = {
    "For whom": ("coordinator", "lan", "allow"),
    "What is offered": ("gpus", "shares", "serving", "stream", "stream_ahead", "prewarmed"),
    "Money": ("price", "payout", "escrow", "min_claim_window", "settle_grace"),
    "How it is reached": ("listen", "relay", "serve_relay", "upload_limit", "download_limit"),
    "What it may cost this machine": ("data_dir", "storage", "limit", "sandbox", "engine_patience"),
}


@cli.command(cls=SectionedCommand, sections=SECTIONS)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA_DIR,
    show_default=True,
    is_eager=True,
    callback=_use_config_file,
    help="Where keys, jobs and files are; one program at a time.",
)
@click.option("--coordinator", envvar="CYXWIZ_COORDINATOR", help="Its address, with /p2p/ID.")
@click.option("--price", help="CYXWIZ per device-hour, such as 0.5. Needed with --coordinator.")
@click.option("--lan", is_flag=True, help="Be found on the own network, and work there unpaid for --allow.")
@click.option(
    "--allow", multiple=True, metavar="ENGINE", help="Let an Engine in (`cyxwiz id`) until the end."
)
@click.option("--gpus", default="all", show_default=True, help="all, none, or numbers such as 0,2.")
@click.option(
    "--shares",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Offer each device so often, for one job or model each; memory, speed and --price are a share's.",
)
@click.option("--payout", default="", help="Solana wallet that is paid. [default: the peer's own]")
@click.option("--listen", multiple=True, help="Multiaddress to listen at. [default: /ip4/0.0.0.0/tcp/0]")
@click.option("--relay", multiple=True, help="To be reached through. [default: the coordinator, if need be]")
@click.option("--serve-relay", is_flag=True, help="Relay for other peers behind NAT, within limits.")
@click.option("--prewarmed", default=1, show_default=True, help="Workers kept ready for the next job.")
@click.option(
    "--sandbox",
    type=click.Choice(("auto", "landlock", "bwrap", "none")),
    default="auto",
    show_default=True,
    help="How training is closed off; auto takes landlock, else bwrap, else refuses to start.",
)
@click.option(
    "--engine-patience", default=900.0, show_default=True, help="Seconds to wait for a silent Engine."
)
@click.option(
    "--settle-grace", default=20.0, show_default=True, help="Seconds the coordinator has to settle."
)
@click.option("--limit", multiple=True, metavar="NAME=VALUE", help="What strangers may cost; see README.")
@click.option(
    "--min-claim-window",
    type=click.IntRange(1, 86_400),
    default=30,
    show_default=True,
    help="Seconds that an escrow must leave between asking for a refund and getting it.",
)
@click.option(
    "--stream/--no-stream", default=True, show_default=True, help="Take jobs whose data stays with its owner."
)
@click.option("--stream-ahead", default=64, show_default=True, help="MiB of such data held before its use.")
@click.option(
    "--serving/--no-serving", default=True, show_default=True, help="Serve models of others, paid by time."
)
@click.option("--escrow", default="", metavar="PROGRAM[/MINT]", help="Trusted on a real network.")
@click.option("--storage", default="64G", show_default=True, help="Bytes of files to keep at most.")
@click.option("--upload-limit", help="Bytes a second of all file transfers, such as 20M. [default: none]")
@click.option("--download-limit", help="The same for what comes in.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
@click.option("--log-json", is_flag=True, help="One JSON object a line.")
def start(data_dir: Path, log_level: str, log_json: bool, **flags: Any) -> None:
    """Runs a peer until interrupted.

    With --coordinator it works for whoever pays, with --lan for the Engines of its owner; both may be
    given. It waits for its workers to load their runtime, and is ready while the coordinator is away, too.
    """
    from p2p.limits import parse_limits
    from p2p.logs import configure_logging
    from p2p.transfer_rate import parse_bytes
    from peer.config import DEFAULT_LISTEN, Config, check_config
    from peer.daemon import run

    configure_logging(log_level, log_json)
    config = Config(
        data_dir=data_dir,
        coordinator=flags["coordinator"] or None,
        price_per_hour=_price(flags["price"], needed=bool(flags["coordinator"])),
        lan=flags["lan"],
        allow=tuple(flags["allow"]),
        gpus=flags["gpus"],
        shares=flags["shares"],
        payout=flags["payout"],
        listen=tuple(flags["listen"]) or DEFAULT_LISTEN,
        relays=tuple(flags["relay"]),
        serve_relay=flags["serve_relay"],
        prewarmed=flags["prewarmed"],
        sandbox=flags["sandbox"],
        engine_patience_s=flags["engine_patience"],
        settle_grace_s=flags["settle_grace"],
        min_claim_window_s=flags["min_claim_window"],
        escrow=flags["escrow"],
        limits=parse_limits(flags["limit"]),
        storage_bytes=parse_bytes(str(flags["storage"])),
        upload_limit=_bytes(flags["upload_limit"]),
        download_limit=_bytes(flags["download_limit"]),
        streams=flags["stream"],
        stream_ahead_bytes=flags["stream_ahead"] << 20,
        serves=flags["serving"],
    )
    run(check_config(config))


def _bytes(text: str | None) -> int | None:
    from p2p.transfer_rate import parse_bytes

    return None if text is None else parse_bytes(str(text))


def _price(text: str | None, *, needed: bool) -> int:
    from peer.config import parse_price

    if text is None and needed:
        raise click.UsageError("--price is needed with --coordinator")
    return 0 if text is None else parse_price(str(text))


@cli.command()
@click.argument("engine")
@_data_dir
def allow(engine: str, data_dir: Path) -> None:
    """Lets ENGINE (what `cyxwiz id` prints) train here, unpaid, from now on."""
    _show_allowed(_change_allowed(data_dir, "allow", engine))


@cli.command()
@click.argument("engine")
@_data_dir
def deny(engine: str, data_dir: Path) -> None:
    """Lets ENGINE in no more, and ends what it has under way here."""
    _show_allowed(_change_allowed(data_dir, "deny", engine))


@cli.command()
@_data_dir
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def allowed(data_dir: Path, as_json: bool) -> None:
    """Lists the Engines that may train here unpaid."""
    answer = _change_allowed(data_dir, "allowed", "")
    if as_json:
        click.echo(_as_json(answer))
    else:
        _show_allowed(answer)


def _change_allowed(data_dir: Path, method: str, engine: str) -> dict[str, Any]:
    """By the peer that runs; in the file where none does."""
    from p2p.control import call_control_blocking
    from p2p.datadir import DataDir
    from p2p.errors import ControlUnavailableError
    from p2p.identifiers import PeerId
    from peer.access import Access, read_allowed
    from peer.config import ALLOWED_NAME, CONTROL_NAME

    directory = data_dir.expanduser()
    try:
        answer: dict[str, Any] = call_control_blocking(directory / CONTROL_NAME, method, {"engine": engine})
        return answer
    except (ControlUnavailableError, FileNotFoundError):
        pass
    with DataDir.open(directory, "cyxpeer") as opened:
        path = opened.path / ALLOWED_NAME
        access = Access(PeerId(""), None, lambda: 0.0, read_allowed(path), path)
        {"allow": access.allow, "deny": access.deny}.get(method, lambda _: None)(engine)
        return {"allowed": list(access.allowed.ids()), "lan": True}


def _show_allowed(answer: dict[str, Any]) -> None:
    for engine_id in answer["allowed"]:
        click.echo(engine_id)
    if not answer["allowed"]:
        click.echo("no Engine is let in", err=True)
    if not answer["lan"]:
        click.echo("the peer that runs was started without --lan: nobody can use the list", err=True)


@cli.command()
@_data_dir
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(data_dir: Path, as_json: bool) -> None:
    """What the peer that runs on the data directory is doing."""
    from p2p.control import call_control_blocking
    from peer.config import CONTROL_NAME

    answer = call_control_blocking(data_dir.expanduser() / CONTROL_NAME, "status", {}, timeout_s=15.0)
    click.echo(_as_json(answer) if as_json else plain(_as_text(answer), lines=True))


def _as_json(answer: Any) -> str:
    import json

    return json.dumps(answer, indent=2)


def _as_text(answer: dict[str, Any]) -> str:
    from p2p.identifiers import UNITS_PER_TOKEN

    lines = [
        f"peer         {answer['peer_id']}",
        *_as_terms(answer),
        *(f"listens at   {address}" for address in answer["addresses"]),
        *(f"connected    {peer_id} at {address}" for peer_id, address in answer["connections"].items()),
        *(f"device {number}     {device['name']}" for number, device in enumerate(answer["devices"])),
        *(f"model        {model}" for model in answer["models"]),
        *(_as_deployment(deployment) for deployment in answer["deployments"]),
        *(
            f"job {job['job_id'][:12]}  {job['phase']}, {job['done']} of {job['segments']} {job['part']}s, "
            + (
                "unpaid"
                if job["kind"] == "direct"
                else f"{job['earned'] / UNITS_PER_TOKEN:g} CYXWIZ vouchered"
            )
            for job in answer["jobs"]
        ),
    ]
    return "\n".join(lines)


def _as_deployment(deployment: dict[str, Any]) -> str:
    about = f"{deployment['name']} ({deployment['format']}) {deployment['state']}"
    asked = f"{deployment['requests']} requests" if deployment["requests"] is not None else "not asked yet"
    left = f"{deployment['periods_left']} periods of {deployment['period_s']} s left"
    refused = f"; refuses calls: {deployment['refused']}" if deployment["refused"] else ""
    return f"deployment {deployment['job_id'][:12]}  {about}, {asked}, {left}{refused}"


def _as_terms(answer: dict[str, Any]) -> list[str]:
    from p2p.identifiers import UNITS_PER_TOKEN

    lines = []
    if answer["coordinator"] is not None:
        lines = [
            f"coordinator  {'connected' if answer['registered'] else 'not connected'}",
            f"wallet       {answer['node_wallet']}, paid to {answer['payout_wallet']}",
            f"price        {answer['price_per_hour'] / UNITS_PER_TOKEN:g} CYXWIZ per device-hour",
        ]
    if answer["lan"]:
        lines += [f"lets in      {engine_id}, unpaid" for engine_id in answer["allowed"]] or [
            "lets in      nobody"
        ]
    return lines


def main() -> None:
    """Console entry: an error is one clear line and an exit code, never a traceback."""
    code = _guarded(lambda: cli(standalone_mode=False))
    sys.exit(code)


def _guarded(command: Callable[[], Any]) -> int:
    try:
        result = command()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        known = _known_error(error)
        if known is None:
            raise
        click.echo(f"cyxpeer: {plain(known, lines=True)}", err=True)
        return 1


def _known_error(error: BaseException) -> str | None:
    """The text of an error that a user can understand, also from inside a group."""
    from backend.errors import BackendError
    from p2p.errors import P2PError
    from peer.errors import PeerError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PeerError | P2PError | BackendError | OSError):
        return str(error)
    return None
