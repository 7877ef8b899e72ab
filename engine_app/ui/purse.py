"""The wallet, for the window: its file, and what the chain says about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from engine_app.entry import CommandError
from engine_app.ui.loop import Tasks
from engine_app.ui.network import EXPECTED, Network
from engine_app.ui.observed import Observed
from engine_app.wallets import open_wallet_chain
from p2p.chain.client import HistoryEntry
from p2p.chain.wallet import Wallet
from p2p.identifiers import Units
from p2p.session.places import Places

HISTORY = 20
DEADLINE_S = 30.0


class Purse(Observed):
    """Listeners are told of every change, and ask for what they need."""

    def __init__(self, network: Network, tasks: Tasks) -> None:
        super().__init__()
        self._network = network
        self._tasks = tasks
        self._wallet: Wallet | None = None
        self.units: int | None = None
        self.lamports = 0
        self.is_embedded = False
        self.history: list[HistoryEntry] = []
        self.busy = ""
        self.problem = ""
        self._scope: trio.CancelScope | None = None

    @property
    def path(self) -> Path:
        return Places(self._network.config.data_dir).wallet

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @property
    def address(self) -> str:
        """Empty until the wallet is open."""
        return self._wallet.address if self._wallet is not None else ""

    # -- the file ------------------------------------------------------------------------------

    def create(self, passphrase: str) -> None:
        async def work() -> None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._wallet = await trio.to_thread.run_sync(Wallet.create, self.path, passphrase or None)
            self._opened(passphrase)

        self._do("Making a wallet", work)

    def open(self, passphrase: str = "") -> None:
        async def work() -> None:
            given = passphrase or self._network.config.passphrase
            self._wallet = await trio.to_thread.run_sync(Wallet.load, self.path, given)
            self._opened(given or "")

        self._do("Opening the wallet", work)

    def restore(self, source: Path, passphrase: str) -> None:
        async def work() -> None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            restore = partial(Wallet.restore, source, self.path, passphrase or None)
            self._wallet = await trio.to_thread.run_sync(restore)
            self._opened(passphrase)

        self._do("Restoring the wallet", work)

    def back_up(self, target: Path) -> None:
        async def work() -> None:
            if self._wallet is not None:
                write = partial(self._wallet.backup, target, self._network.config.passphrase)
                await trio.to_thread.run_sync(write)

        self._do("Writing the copy", work)

    def _opened(self, passphrase: str) -> None:
        """A session that was opened without the wallet could not pay."""
        self._network.unlock(passphrase)
        if self._network.state != "off":
            self._network.connect()

    # -- the chain -----------------------------------------------------------------------------

    def refresh(self) -> None:
        self._do("Asking the chain", self._look)

    def airdrop(self, units: Units) -> None:
        async def work() -> None:
            async with open_wallet_chain(self._network.config) as chain:
                await chain.airdrop(self.address, units)
            await self._look()

        self._do("Getting test tokens", work)

    async def _look(self) -> None:
        async with open_wallet_chain(self._network.config) as chain:
            self.is_embedded = chain.info.embedded
            self.units = await chain.token_balance(self.address)
            self.lamports = await chain.lamports(self.address)
            self.history = await chain.history(self.address, HISTORY)

    def _do(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        async def run() -> None:
            try:
                with trio.fail_after(DEADLINE_S):
                    await work()
            except trio.TooSlowError:
                self.problem = f"{what}: no answer for {DEADLINE_S:.0f} s"
            except (*EXPECTED, ValueError, CommandError) as error:
                self.problem = str(error)
            except trio.Cancelled:
                self.problem = f"{what}: called off"
                raise
            finally:
                self.busy = ""
                self._tell()

        if not self.busy:
            self.busy, self.problem = what, ""
            self._tell()
            self._scope = self._tasks.start(run)

    def call_off(self) -> None:
        """What is being done just now; what was sent to the chain by then, or is being written, stays."""
        if self._scope is not None:
            self._scope.cancel()
