"""The embedded chain as a real process that is killed at any moment."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from coordinator import chain_process as chain_process_module
from coordinator.chain.genesis import genesis_info
from p2p.chain.client import ChainClient, open_chain
from p2p.chain.errors import ChainUnavailableError
from p2p.chain.payer import CreateEscrow, PayerOptions, Settle, open_payer
from p2p.chain.wallet import Wallet
from p2p.protocols.coordinator import ChainInfo
from p2p.vouchers import Voucher, voucher_bytes

pytestmark = pytest.mark.e2e
ARBITER = Wallet.from_seed(bytes(31) + b"\1")
SLOT_MS = 50
OPTIONS = PayerOptions(poll_s=0.05, resend_s=0.3, retry_s=0.1)


class ChainProcess:
    """Starts and kills the program; the same data and port each time."""

    def __init__(self, directory: Path, slot_ms: int = SLOT_MS) -> None:
        self._directory = directory
        self._slot_ms = slot_ms
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "coordinator.chain", "--data-dir", str(self._directory)]
        command += ["--port", str(self._port), "--slot-ms", str(self._slot_ms)]
        command += ["--platform-wallet", ARBITER.address]
        log = (self._directory.parent / "chain.log").open("a")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, (self._directory.parent / "chain.log").read_text()
        self._port = int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def chain_process(tmp_path: Path) -> Iterator[ChainProcess]:
    with running(ChainProcess(tmp_path / "chain")) as process:
        yield process


@contextlib.contextmanager
def running(process: ChainProcess) -> Iterator[ChainProcess]:
    process.start()
    try:
        yield process
    finally:
        process.kill()


@contextlib.asynccontextmanager
async def client(process: ChainProcess) -> AsyncIterator[ChainClient]:
    genesis = genesis_info(ARBITER.address)
    info = ChainInfo(
        rpc_url=process.url,
        program_id=genesis.program_id,
        mint=genesis.mint,
        platform_account=genesis.platform_account,
        arbiter=ARBITER.address,
        embedded=True,
        claim_window_s=60,
    )
    async with open_chain(info, timeout_s=60) as chain:
        yield chain


async def test_a_killed_chain_keeps_all_that_it_acknowledged(chain_process: ChainProcess) -> None:
    """Airdrops run when the process is killed; each that was answered is there afterwards."""
    randomness, wallet = random.Random(1), Wallet.generate()
    acknowledged: list[str] = []
    heights = [0]
    async with client(chain_process) as chain:

        async def give(wanted: int, enough: trio.Event) -> None:
            with contextlib.suppress(ChainUnavailableError):
                while True:
                    acknowledged.append(await chain.airdrop(wallet.address, 1))
                    if len(acknowledged) >= wanted:
                        enough.set()

        for _ in range(4):
            wanted, enough = len(acknowledged) + randomness.randint(1, 100), trio.Event()
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(give, wanted, enough)
                await enough.wait()
                await trio.to_thread.run_sync(chain_process.kill)
            await trio.to_thread.run_sync(chain_process.start)
            assert await chain.token_balance(wallet.address) >= len(acknowledged)
            for start in range(0, len(acknowledged), 256):
                statuses = await chain.statuses(acknowledged[start : start + 256])
                assert all(status is not None and status.error is None for status in statuses)
            heights.append(await chain.finalized_height())
    assert heights == sorted(heights)
    assert len(set(acknowledged)) == len(acknowledged)


async def test_payments_finish_although_the_chain_dies_between_and_within_them(
    chain_process: ChainProcess, tmp_path: Path
) -> None:
    user, node = Wallet.generate(), Wallet.generate()
    amount, count, deadline = 1_007, 20, int(time.time()) + 3600
    async with client(chain_process) as chain:
        for wallet in (user, node, ARBITER):
            await chain.airdrop(wallet.address, 10**9)
        async with (
            open_payer(tmp_path / "user.outbox", chain, user, OPTIONS) as user_payer,
            open_payer(tmp_path / "arbiter.outbox", chain, ARBITER, OPTIONS) as arbiter_payer,
        ):

            async def job(number: int) -> None:
                terms = (node.address, node.address, ARBITER.address, 0, amount, 60, deadline)
                await user_payer.pay(f"create {number}", CreateEscrow(f"{number:064x}", *terms), 100)
                address = chain.escrow_address(user.address, f"{number:064x}", deadline)
                keys = (bytes(Pubkey.from_string(key)) for key in (address, node.address))
                signature = user.sign(voucher_bytes(*keys, amount, True))
                settle = Settle(address, Voucher(address, amount, True, signature))
                await arbiter_payer.pay(f"settle {number}", settle, 100)

            async def murder() -> None:
                for pause_s in (0.15, 0.3, 0.4):
                    await trio.sleep(pause_s)
                    await trio.to_thread.run_sync(chain_process.kill)
                    await trio.to_thread.run_sync(chain_process.start)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(murder)
                for number in range(count):
                    nursery.start_soon(job, number)
        fee = amount // 10
        assert await chain.token_balance(user.address) == 10**9 - count * amount
        assert await chain.token_balance(node.address) == 10**9 + count * (amount - fee)
        assert await chain.token_balance(ARBITER.address) == 10**9 + count * fee
        history = await chain.history(node.address, limit=count)
        assert {entry.change for entry in history} <= {amount - fee}


async def test_what_was_signed_before_the_kill_is_good_after_it(tmp_path: Path) -> None:
    """For 150 slots: long ones, since time goes on while the program starts on a busy machine."""
    wallet = Wallet.generate()
    me = wallet.keypair.pubkey()
    with running(ChainProcess(tmp_path / "chain", slot_ms=1000)) as process:
        async with client(process) as chain:
            await chain.airdrop(wallet.address, 1)
            blockhash, _ = await chain.latest_blockhash()
            gift = transfer(TransferParams(from_pubkey=me, to_pubkey=me, lamports=1))
            message = MessageV0.try_compile(me, [gift], [], blockhash)
            transaction = VersionedTransaction(message, [wallet.keypair])
            await trio.to_thread.run_sync(process.kill)
            await trio.to_thread.run_sync(process.start)
            await chain.send(bytes(transaction))
            [status] = await chain.statuses([str(transaction.signatures[0])])
            assert status is not None and status.error is None


async def test_a_folder_that_is_called_as_a_package_is_in_no_chains_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in which a user types: here it has the coordinator's data in it."""
    (tmp_path / "coordinator" / "chain").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    settings = chain_process_module.ChainSettings(
        tmp_path / "coordinator" / "chain", ARBITER.address, SLOT_MS
    )
    chain = chain_process_module.ChainProcess(settings)
    await chain_process_module.stop(await chain.start())
    assert chain.url
