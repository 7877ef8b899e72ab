"""What a coordinator is told at its start: flags over environment over a TOML file, checked once."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.errors import ConfigError
from p2p.chain.trust import CYXWIZ_MINT
from p2p.limits import HostLimits
from p2p.relay.book import RelayLimits

CONFIG_NAME = "config.toml"
CONTROL_NAME = "control.sock"
MAX_RELAY_BYTES_PER_S = 1 << 40
DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/4400",)
DEVNET_PLATFORM_ACCOUNT = "negq5ApurkfM7V6F46NboJbnjbohEtfu1PotDsvMs5e"


@dataclass(frozen=True, slots=True)
class Config:
    """An empty ``solana_rpc`` means the embedded chain; the escrow's accounts matter to others only."""

    data_dir: Path
    listen: tuple[str, ...] = DEFAULT_LISTEN
    solana_rpc: str = ""
    program_id: str = ""
    mint: str = CYXWIZ_MINT
    platform_account: str = DEVNET_PLATFORM_ACCOUNT
    heartbeat_s: float = 5.0
    lease_s: float = 60.0
    """A peer that is away for less keeps its job: longer than a cut that a network gets over."""
    offer_s: float = 5.0
    fund_s: float = 60.0
    claim_window_s: int = 60
    retry_patience_s: float = 120.0
    chain_slot_ms: int = 400
    chain_port: int = 0
    """0 takes a free one at the first start, and that one ever after."""
    limits: HostLimits = HostLimits()  # noqa: RUF009 - frozen
    chain_host: str = "127.0.0.1"
    """Peers and Engines on other machines need one that they reach."""
    relay: RelayLimits | None = RelayLimits()  # noqa: RUF009 - frozen
    """What circuits between Engines and peers may cost this machine; None relays nothing."""


def check_config(config: Config) -> Config:
    """Raises ConfigError."""
    for name in ("heartbeat_s", "lease_s", "offer_s", "fund_s", "retry_patience_s"):
        value = getattr(config, name)
        if not 0 < value <= 1e6:
            raise ConfigError(f"{name} of {value:g}, must be above 0 and at most 1000000")
    if config.lease_s < 2 * config.heartbeat_s:
        raise ConfigError(
            f"lease of {config.lease_s:g} s, must be at least twice the heartbeat of {config.heartbeat_s:g} s"
        )
    if not 0 <= config.claim_window_s <= 30 * 24 * 3600:
        raise ConfigError(f"claim window of {config.claim_window_s} s, allowed 0 to 30 days")
    if not 1 <= config.chain_slot_ms <= 60_000:
        raise ConfigError(f"slots of {config.chain_slot_ms} ms, allowed 1 to 60000")
    if config.solana_rpc and not config.program_id:
        raise ConfigError("--solana-rpc needs --program-id: where the escrow program is on that chain")
    if config.program_id and not config.solana_rpc:
        raise ConfigError("--program-id without --solana-rpc: the embedded chain brings its own program")
    if config.relay is not None:
        for name, rate in (("", config.relay.bytes_per_s), ("total-", config.relay.bytes_per_s_of_all)):
            if not 0 < rate <= MAX_RELAY_BYTES_PER_S:
                raise ConfigError(f"--relay-{name}rate of {rate / 2**20:g} MB/s, allowed are above 0 to 2^20")
    return config


def read_config_file(path: Path) -> dict[str, Any]:
    """The flags that a TOML file sets, by their names; none where there is no file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
