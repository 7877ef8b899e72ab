"""What a peer is told at its start: flags over environment over a TOML file, checked once."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import base58

from p2p.errors import P2PError
from p2p.identifiers import UNITS_PER_TOKEN, PeerId
from p2p.limits import HostLimits
from peer.allowed import checked_id
from peer.errors import ConfigError

DEFAULT_DATA_DIR = "~/.cyxwiz/peer"
DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0",)
CONFIG_NAME = "config.toml"
CONTROL_NAME = "control.sock"
ALLOWED_NAME = "allowed.json"
MAX_PREWARMED = 16
MIN_STREAM_AHEAD_BYTES, MAX_STREAM_AHEAD_BYTES = 1 << 20, 1 << 40
MAX_WAIT_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Config:
    """``price_per_hour`` in units per device-hour; an empty ``payout`` means the peer's own wallet."""

    data_dir: Path
    coordinator: str | None
    """None: this peer works for nobody but Engines on its own network that it lets in."""
    price_per_hour: int
    gpus: str = "all"
    payout: str = ""
    listen: tuple[str, ...] = DEFAULT_LISTEN
    relays: tuple[str, ...] = ()
    """Addresses to be reached through; none means the coordinator, if nobody gets through directly."""
    serve_relay: bool = False
    """Whether others may be reached through this peer."""
    shares: int = 1
    """Each device is offered so many times, with an equal share of its memory and speed."""
    prewarmed: int = 1
    sandbox: str = "auto"
    engine_patience_s: float = 900.0
    settle_grace_s: float = 20.0
    min_claim_window_s: int = 30
    """Between a refund's request and the refund: the time to notice and to settle."""
    worker_memory_bytes: int = 0
    """0: the machine's memory, shared out over the devices."""
    storage_bytes: int = 64 << 30
    limits: HostLimits = HostLimits()  # noqa: RUF009 - frozen
    upload_limit: int | None = None
    """Of all file transfers together, in bytes per second; None for no limit. So is the next."""
    download_limit: int | None = None
    streams: bool = True
    """Takes jobs whose samples come from the Engine while they are used."""
    stream_ahead_bytes: int = 64 << 20
    """Of one job, how much may have come or be on its way before it is used."""
    serves: bool = True
    """Takes deployments: models of others that it answers calls with, for a time."""
    escrow: str = ""
    """PROGRAM or PROGRAM/MINT that is trusted on a real network."""

    lan: bool = False
    """Announces itself on its network and works, unpaid, for the Engines that are let in."""
    allow: tuple[str, ...] = ()
    """Engines that are let in until the program ends, beside those that the list keeps."""

    @property
    def coordinator_id(self) -> PeerId | None:
        return None if self.coordinator is None else PeerId(self.coordinator.rpartition("/p2p/")[2])


def check_config(config: Config) -> Config:
    """Raises ConfigError, ChainNotTrustedError."""
    if config.coordinator is not None:
        _check_address("coordinator", config.coordinator)
    elif not config.lan:
        raise ConfigError("neither --coordinator nor --lan: nobody could have work for this peer")
    for engine_id in config.allow:
        checked_id(engine_id)
    for relay in config.relays:
        _check_address("relay", relay)
    if config.price_per_hour < 0:
        raise ConfigError(f"price of {config.price_per_hour} units per hour, must not be negative")
    for what, seconds in (
        ("--engine-patience", config.engine_patience_s),
        ("--settle-grace", config.settle_grace_s),
    ):
        if not 0 < seconds <= MAX_WAIT_S:
            raise ConfigError(f"{what} of {seconds:g} s, allowed are above 0 to {MAX_WAIT_S}")
    if not MIN_STREAM_AHEAD_BYTES <= config.stream_ahead_bytes <= MAX_STREAM_AHEAD_BYTES:
        allowed = f"{MIN_STREAM_AHEAD_BYTES} to {MAX_STREAM_AHEAD_BYTES}"
        raise ConfigError(f"{config.stream_ahead_bytes} bytes of samples ahead, allowed are {allowed}")
    if config.escrow:
        from p2p.chain.trust import parse_trusted  # here: it loads what a status needs not

        parse_trusted(config.escrow)
    if not 0 <= config.prewarmed <= MAX_PREWARMED:
        raise ConfigError(f"{config.prewarmed} pre-warmed workers, allowed 0 to {MAX_PREWARMED}")
    if config.payout and not _is_public_key(config.payout):
        raise ConfigError(f"payout wallet {config.payout!r}, expected a Solana address in base58")
    return config


def _check_address(what: str, text: str) -> None:
    from p2p.addresses import dialable  # here: it loads what a status needs not

    try:
        dialable(PeerId(text.rpartition("/p2p/")[2]), (text,))
    except P2PError:
        raise ConfigError(
            f"{what} {text!r}, expected an address such as /ip4/127.0.0.1/tcp/4001/p2p/ID"
        ) from None


def _is_public_key(text: str) -> bool:
    try:
        return len(base58.b58decode(text)) == 32
    except ValueError:
        return False


def parse_price(text: str) -> int:
    """Units from CYXWIZ per hour as a decimal. Raises ConfigError."""
    try:
        units = Decimal(text) * UNITS_PER_TOKEN
    except InvalidOperation:
        raise ConfigError(f"price {text!r}, expected CYXWIZ per hour such as 0.5") from None
    if not units.is_finite() or units != units.to_integral_value() or not 0 <= units < 2**63:
        raise ConfigError(f"price {text!r}, expected 0 or more CYXWIZ per hour with 9 decimals at most")
    return int(units)


def read_config_file(path: Path) -> dict[str, Any]:
    """The flags that a TOML file sets, by their names; none where there is no file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
