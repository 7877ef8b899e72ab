"""The commands about the wallet: its key file, and what the chain says about it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import click

from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.show import print_json, print_table
from p2p.chain.client import ChainClient, open_chain
from p2p.chain.errors import ChainUnavailableError, WalletError
from p2p.chain.wallet import Wallet
from p2p.errors import P2PError
from p2p.pricing import format_tokens, parse_tokens
from p2p.session.places import Places

LAMPORTS_PER_SOL = 10**9


def create(config: Config, encrypt: bool, as_json: bool) -> None:
    passphrase = config.passphrase
    if encrypt and passphrase is None:
        if not sys.stdin.isatty():
            raise WalletError("--encrypt needs a passphrase: no terminal to ask at, and no CYXWIZ_PASSPHRASE")
        passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    wallet = Wallet.create(Places(config.data_dir).wallet, passphrase)
    _say_address(wallet, "made", as_json)


def backup(config: Config, file: Path) -> None:
    _load(config).backup(file, config.passphrase)
    click.echo(f"{file}: keep it secret, it owns the tokens")


def restore(config: Config, file: Path, as_json: bool) -> None:
    wallet = Wallet.restore(file, Places(config.data_dir).wallet, config.passphrase)
    _say_address(wallet, "restored", as_json)


def show(config: Config, as_json: bool) -> None:
    async def use(chain: ChainClient, wallet: Wallet) -> None:
        units = await chain.token_balance(wallet.address)
        lamports = await chain.lamports(wallet.address)
        if as_json:
            print_json({"address": wallet.address, "units": units, "lamports": lamports})
            return
        click.echo(f"address  {wallet.address}")
        click.echo(f"tokens   {format_tokens(units)}")
        click.echo(f"fees     {lamports / LAMPORTS_PER_SOL:g} SOL")

    _with_chain(config, use)


def airdrop(config: Config, amount: str, as_json: bool) -> None:
    try:
        units = parse_tokens(amount)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if units == 0:
        raise CommandError(f"{amount!r} tokens, must be more than 0")

    async def use(chain: ChainClient, wallet: Wallet) -> None:
        if not chain.info.embedded:
            raise CommandError(f"{chain.info.rpc_url} is a real chain, airdrops are for embedded ones")
        signature = await chain.airdrop(wallet.address, units)
        if as_json:
            print_json({"address": wallet.address, "units": units, "signature": signature})
        else:
            click.echo(f"{format_tokens(units)} to {wallet.address}  [{signature[:16]}]")

    _with_chain(config, use)


def history(config: Config, limit: int, as_json: bool) -> None:
    async def use(chain: ChainClient, wallet: Wallet) -> None:
        entries = await chain.history(wallet.address, limit)
        if as_json:
            print_json([asdict(entry) for entry in entries])
            return
        rows = [
            (
                entry.slot,
                format_tokens(entry.change),
                format_tokens(entry.balance),
                entry.error or entry.signature,
            )
            for entry in entries
        ]
        print_table(("slot", "change", "balance", "transaction"), rows)

    _with_chain(config, use)


def _say_address(wallet: Wallet, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"address": wallet.address})
    else:
        click.echo(f"wallet {wallet.address} {what}")


def _load(config: Config) -> Wallet:
    path = Places(config.data_dir).wallet
    if not path.exists():
        raise CommandError(f"no wallet at {path}: make one with `cyxwiz wallet new`")
    return Wallet.load(path, config.passphrase)


def _with_chain(config: Config, use: Callable[[ChainClient, Wallet], Awaitable[None]]) -> None:
    wallet = _load(config)

    async def main() -> None:
        async with open_wallet_chain(config) as chain:
            await use(chain, wallet)

    run(main, config)


@asynccontextmanager
async def open_wallet_chain(config: Config) -> AsyncIterator[ChainClient]:
    """The coordinator's chain: as remembered if it still answers there, else as the coordinator says."""
    places = Places(config.data_dir)
    address = config.coordinator or places.remembered_coordinator()
    known = places.remembered_chain(address) if address is not None else None
    if known is not None:
        async with open_chain(known) as chain:
            if await _answers(chain):
                yield chain
                return
    from p2p.api import ask_chain
    from p2p.chain.trust import parse_trusted

    trusted = parse_trusted(config.escrow) if config.escrow else None
    info = await ask_chain(config.data_dir, config.coordinator, trusted=trusted)
    async with open_chain(info) as chain:
        yield chain


async def _answers(chain: ChainClient) -> bool:
    try:
        await chain.health()
    except ChainUnavailableError:
        return False
    except P2PError:
        return True
    return True
