"""Runs a coordinator on a real host and chain: keys, lock, child process, control socket."""

from __future__ import annotations

import signal
import time
from contextlib import AsyncExitStack

import structlog
import trio

from coordinator.assembly import World, open_coordinator
from coordinator.chain.genesis import genesis_info
from coordinator.chain_process import ChainProcess, ChainSettings, open_chain_process
from coordinator.config import CONTROL_NAME, Config
from coordinator.control import control_handler
from p2p.chain.client import ChainClient, open_chain
from p2p.chain.errors import ChainError
from p2p.chain.payer import open_payer
from p2p.chain.wallet import Wallet
from p2p.control import serve_control
from p2p.datadir import DataDir
from p2p.host import open_host
from p2p.identity import Identity, load_or_create_identity
from p2p.network import Network
from p2p.protocols.coordinator import ChainInfo
from p2p.relay.dialback import DialBack
from p2p.relay.service import RelayService
from p2p.tasks import background_tasks
from p2p.yamux_stream import YamuxLimits

log = structlog.get_logger(__name__)

FEES_RETRY_S = 1.0
# It carries no bulk of its own, and what a slow end of a circuit leaves unread stays here.
_STREAMS = YamuxLimits(max_window_bytes=256 * 1024)


def run(config: Config) -> None:
    """Until interrupted. Raises CoordinatorError, P2PError."""
    with DataDir.open(config.data_dir, "cyxcoordinator") as data_dir:
        identity = load_or_create_identity(data_dir.path / "identity.key")
        trio.run(_serve_until_signal, config, data_dir, identity)


async def _serve_until_signal(config: Config, data_dir: DataDir, identity: Identity) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_forever, config, data_dir, identity)
            number = await anext(signals)
            log.info("stopping", signal=signal.Signals(number).name)
            nursery.cancel_scope.cancel()


async def serve_forever(config: Config, data_dir: DataDir, identity: Identity) -> None:
    async with AsyncExitStack() as stack:
        arbiter = _wallet(data_dir, "arbiter.json")
        info, process = await _open_chain(stack, config, data_dir, arbiter)
        chain = await stack.enter_async_context(open_chain(info))
        if info.embedded:
            await _take_fees(chain, arbiter)
        payer = await stack.enter_async_context(open_payer(data_dir.path / "payments", chain, arbiter))
        limits = config.limits
        network = await stack.enter_async_context(open_host(identity, config.listen, limits, _STREAMS))
        DialBack(network)
        relay = RelayService(network, config.relay) if config.relay is not None else None
        world = World(network, info, chain, payer, time.time)
        path = data_dir.path / "coordinator.sqlite"
        services = await stack.enter_async_context(open_coordinator(path, config, world))
        nursery = await stack.enter_async_context(background_tasks())
        handler = control_handler(services, network, process, relay)
        await nursery.start(serve_control, data_dir.path / CONTROL_NAME, handler)
        _announce(data_dir, network, info)
        await trio.sleep_forever()


async def _open_chain(
    stack: AsyncExitStack, config: Config, data_dir: DataDir, arbiter: Wallet
) -> tuple[ChainInfo, ChainProcess | None]:
    process = None
    url, program_id, mint = config.solana_rpc, config.program_id, config.mint
    platform_account = config.platform_account
    if not config.solana_rpc:
        platform = _wallet(data_dir, "platform.json")
        directory = data_dir.path / "chain"
        directory.mkdir(mode=0o700, exist_ok=True)
        slot_ms, port, host = config.chain_slot_ms, config.chain_port, config.chain_host
        settings = ChainSettings(directory, platform.address, slot_ms, port, host)
        process = await stack.enter_async_context(open_chain_process(settings))
        genesis = genesis_info(platform.address)
        url, program_id, mint = process.url, genesis.program_id, genesis.mint
        platform_account = genesis.platform_account
    info = ChainInfo(
        rpc_url=url,
        program_id=program_id,
        mint=mint,
        platform_account=platform_account,
        arbiter=arbiter.address,
        embedded=process is not None,
        claim_window_s=config.claim_window_s,
    )
    return info, process


def _wallet(data_dir: DataDir, name: str) -> Wallet:
    path = data_dir.path / name
    return Wallet.load(path) if path.exists() else Wallet.create(path)


async def _take_fees(chain: ChainClient, arbiter: Wallet) -> None:
    """The arbiter pays for settlements; the embedded chain's coins have no other worth."""
    while True:
        try:
            if await chain.lamports(arbiter.address) == 0:
                await chain.airdrop(arbiter.address, 0)
            return
        except ChainError as error:
            log.warning("no fees from the chain yet", reason=str(error))
            await trio.sleep(FEES_RETRY_S)


def _announce(data_dir: DataDir, network: Network, info: ChainInfo) -> None:
    addresses = list(network.addresses())
    data_dir.write_ready({"peer_id": network.peer_id, "addresses": addresses, "rpc_url": info.rpc_url})
    log.info("coordinator ready", peer_id=network.peer_id, addresses=addresses, rpc_url=info.rpc_url)
