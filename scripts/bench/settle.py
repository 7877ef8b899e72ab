"""How many escrows a second are settled, through outbox, JSON-RPC and disk, and what one settle costs.

The chain is its own process; the payer's outbox is on disk as well. ``measure`` is what other benchmarks use.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import trio
from solders.pubkey import Pubkey

from coordinator.chain.genesis import genesis_info
from p2p.chain.client import ChainClient, open_chain
from p2p.chain.payer import CreateEscrow, Payer, Settle, open_payer
from p2p.chain.wallet import Wallet
from p2p.protocols.coordinator import ChainInfo
from p2p.vouchers import Voucher, voucher_bytes

AMOUNT = 1_000_003
TIMEOUT_S = 120.0


@contextlib.contextmanager
def chain_process(directory: Path, platform_wallet: str) -> Iterator[str]:
    """The embedded chain's URL."""
    command = [sys.executable, "-m", "coordinator.chain", "--data-dir", str(directory)]
    command += ["--platform-wallet", platform_wallet]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


async def _create(chain: ChainClient, payer: Payer, user: Wallet, node: Wallet, count: int) -> list[Voucher]:
    """Escrows, and the final voucher of each."""
    info, deadline = chain.info, int(time.time()) + 86_400
    vouchers = []
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            job = os.urandom(32).hex()
            terms = (node.address, node.address, info.arbiter, 0, AMOUNT, 60, deadline)
            nursery.start_soon(payer.pay, job, CreateEscrow(job, *terms), TIMEOUT_S)
            address = chain.escrow_address(user.address, job, deadline)
            escrow, worker = (bytes(Pubkey.from_string(key)) for key in (address, node.address))
            signature = user.sign(voucher_bytes(escrow, worker, AMOUNT, True))
            vouchers.append(Voucher(address, AMOUNT, True, signature))
    return vouchers


async def _settle(payer: Payer, vouchers: list[Voucher]) -> tuple[float, list[str]]:
    """Seconds until the last is confirmed, and the signatures."""
    signatures: list[str] = []

    async def one(voucher: Voucher) -> None:
        signatures.append(
            (await payer.pay(voucher.escrow, Settle(voucher.escrow, voucher), TIMEOUT_S)).signature
        )

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for voucher in vouchers:
            nursery.start_soon(one, voucher)
    return time.perf_counter() - started, signatures


async def _measure(count: int, repeats: int) -> list[dict[str, Any]]:
    user, node, arbiter = (Wallet.generate() for _ in range(3))
    with tempfile.TemporaryDirectory() as name, chain_process(Path(name) / "chain", arbiter.address) as url:
        genesis = genesis_info(arbiter.address)
        info = ChainInfo(
            rpc_url=url,
            program_id=genesis.program_id,
            mint=genesis.mint,
            platform_account=genesis.platform_account,
            arbiter=arbiter.address,
            embedded=True,
            claim_window_s=60,
        )
        async with (
            open_chain(info, timeout_s=TIMEOUT_S) as chain,
            open_payer(Path(name) / "user.outbox", chain, user) as user_payer,
            open_payer(Path(name) / "arbiter.outbox", chain, arbiter) as arbiter_payer,
        ):
            rates, signatures = [], []
            for _ in range(repeats):
                for wallet in (user, node, arbiter):
                    await chain.airdrop(wallet.address, 10**12)
                vouchers = await _create(chain, user_payer, user, node, count)
                seconds, signatures = await _settle(arbiter_payer, vouchers)
                rates.append(count / seconds)
            units = [await chain.compute_units(signature) for signature in signatures[:20]]
    return [_row("settle_per_s", statistics.median(rates)), _row("settle_compute_units", max(units))]


def _row(what: str, value: float) -> dict[str, Any]:
    return {"what": what, "ours": round(value, 1), "other": None, "other_name": None, "ratio": None}


def measure(count: int = 200, repeats: int = 3) -> list[dict[str, Any]]:
    """Rows ``settle_per_s`` and ``settle_compute_units``."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    return trio.run(_measure, count, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = measure(options.count, options.repeats)
    for row in rows:
        print(f"{row['what']:<24}{row['ours']:>12}")
    if options.json:
        print(json.dumps({"results": rows}))


if __name__ == "__main__":
    main()
