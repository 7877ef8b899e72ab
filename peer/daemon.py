"""The running peer: wires keys, host, workers, store and chain together and keeps them going.

Holds no decisions about jobs. ``run`` is the only place that starts trio.
"""

from __future__ import annotations

import importlib.metadata
import random
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog
import trio

from backend.workers.supervisor import PoolConfig, WorkerPool, open_pool
from p2p.chain.trust import check_chain, parse_trusted
from p2p.chain.wallet import Wallet
from p2p.control import serve_control
from p2p.datadir import DataDir
from p2p.files import FileStore, serve_transfers
from p2p.host import open_host
from p2p.identifiers import NO_WALLET, PeerId
from p2p.identity import Identity, load_or_create_identity
from p2p.lan import announce
from p2p.network import Network
from p2p.protocols.coordinator import ChainInfo
from p2p.protocols.job import PROTOCOL_ID as JOB_PROTOCOL
from p2p.rates import Rates
from p2p.relay.book import RelayLimits
from p2p.relay.reachability import Reachability
from p2p.relay.service import RelayService
from p2p.tasks import background_tasks
from peer.access import Access, read_allowed
from peer.admission import NO_SERVING, ServingLimits
from peer.artifacts import Artifacts
from peer.config import ALLOWED_NAME, CONTROL_NAME, Config
from peer.control import PeerControl
from peer.deployments import Deployments, DeviceWorkers
from peer.devices import Machine, OfferedDevice, ram_of_each, select_devices
from peer.direct import DirectLeases
from peer.errors import ConfigError
from peer.hosting import Hosting
from peer.inference import InferenceService
from peer.link import CoordinatorLink
from peer.measure import measured_speed
from peer.money import Money, Treasury
from peer.nvml import look_at_machine
from peer.plan import Patience
from peer.registration import Offer, Registration, served_formats
from peer.served import ServedModels
from peer.services import Services, Terms
from peer.store import Store, open_store
from peer.streams import JobStreams
from peer.table import JobTable

log = structlog.get_logger(__name__)

HOUSEKEEPING_S = 60.0
READY_WAIT_S = 5.0
"""How long the ready file waits for the first registration; a peer is ready without coordinator too."""
WORKER_MEMORY_SHARE = 0.75
NO_PEER = PeerId("")


def run(config: Config) -> None:
    """Until interrupted. Raises PeerError, P2PError, BackendError."""
    with DataDir.open(config.data_dir, "cyxpeer") as data_dir:
        identity = load_or_create_identity(data_dir.path / "identity.key")
        wallet = _wallet(data_dir.path / "wallet.json", needed=config.coordinator is not None)
        trio.run(_serve_until_signal, config, data_dir, identity, wallet)


async def _serve_until_signal(
    config: Config, data_dir: DataDir, identity: Identity, wallet: Wallet | None
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, config, data_dir, identity, wallet)
            number = await anext(signals)
            log.info("stopping", signal=signal.Signals(number).name)
            nursery.cancel_scope.cancel()


async def serve(config: Config, data_dir: DataDir, identity: Identity, wallet: Wallet | None) -> None:
    """The peer on a real host."""
    limits = config.limits
    async with open_host(identity, config.listen, limits) as network, background_tasks() as nursery:
        if config.serve_relay:
            RelayService(network, RelayLimits())
        reachability = Reachability(network, random.random)
        nursery.start_soon(reachability.keep, config.coordinator, config.relays)
        await serve_on(network, config, data_dir, wallet)


async def serve_on(
    network: Network,
    config: Config,
    data_dir: DataDir,
    wallet: Wallet | None,
    now: Callable[[], float] = time.time,
) -> None:
    """The peer on any network."""
    machine = await trio.to_thread.run_sync(look_at_machine)
    selection = select_devices(config.gpus, machine, config.shares)
    log.info("devices", offer=selection.text)
    memory_bytes = config.worker_memory_bytes or worker_memory(machine, len(selection.devices))
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(data_dir.path / "peer.sqlite"))
        pools = [
            await _open_pool(stack, config, data_dir.path, device, number, memory_bytes)
            for number, device in enumerate(selection.devices)
        ]
        devices = tuple(
            replace(device, memory_bytes=min(device.memory_bytes, memory_bytes))
            if device.torch_name == "cpu"
            else device
            for device in selection.devices
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        daemon = Daemon(network, config, data_dir, wallet, store, tuple(pools), nursery, now)
        await daemon.run(devices, machine)


class Daemon:
    """The parts of one running peer."""

    def __init__(
        self,
        network: Network,
        config: Config,
        data_dir: DataDir,
        wallet: Wallet | None,
        store: Store,
        pools: tuple[WorkerPool, ...],
        nursery: trio.Nursery,
        now: Callable[[], float],
    ) -> None:
        self._network = network
        self._config = config
        self._data_dir = data_dir
        self._store = store
        self._pools = pools
        self._workers: tuple[DeviceWorkers, ...] = ()
        self._nursery = nursery
        self._now = now
        self._wallet = wallet
        self._version = importlib.metadata.version("cyxwiz")
        address = config.coordinator
        self._chain_fact = f"chain/{config.coordinator_id}"
        self._link = CoordinatorLink(
            network,
            config.coordinator_id or NO_PEER,
            () if address is None else (address,),
            f"cyxpeer {self._version}",
        )
        self._treasury: Treasury | None = None
        if wallet is not None and config.coordinator_id is not None:
            self._treasury = Treasury(data_dir.path, wallet, config.coordinator_id)
        self._access = Access(
            network.peer_id,
            config.coordinator_id,
            now,
            read_allowed(data_dir.path / ALLOWED_NAME, config.allow),
            data_dir.path / ALLOWED_NAME,
        )
        rates = Rates.of(config.upload_limit, config.download_limit)
        files = FileStore(data_dir.path / "store", config.storage_bytes, rates=rates)
        self._artifacts = Artifacts(files, store)

    async def run(self, devices: tuple[OfferedDevice, ...], machine: Machine) -> None:
        """Never returns on its own."""
        self._workers = tuple(
            DeviceWorkers(device.torch_name, pool) for device, pool in zip(devices, self._pools, strict=True)
        )
        speeds = [
            max(1, await measured_speed(device, pool, self._store) // device.shares)
            for device, pool in zip(devices, self._pools, strict=True)
        ]
        worker_bytes = self._config.worker_memory_bytes or worker_memory(machine, len(devices))
        terms = self._terms(tuple(speeds), worker_bytes)
        services, table, inference = await self._open_jobs(terms)
        offer = Offer(devices, ram_of_each(devices, machine), self._version)
        registration = Registration(services, table, offer, self._use_chain)
        if self._treasury is not None:
            self._nursery.start_soon(self._treasury.run)
        if self._config.coordinator is not None:
            self._nursery.start_soon(self._link.run, registration.run)
        if self._config.lan:
            DirectLeases(services, table, devices, registration.record).serve()
        await self._nursery.start(
            serve_control,
            self._data_dir.path / CONTROL_NAME,
            PeerControl(self._config, services, table, inference, offer, self._pools),
        )
        self._nursery.start_soon(self._keep_house)
        for pool in self._pools:
            if self._config.prewarmed:
                await pool.wait_warm()
        if self._config.lan:
            await self._nursery.start(announce, self._network)
        await self._announce_ready(terms)

    def _terms(self, speeds: tuple[int, ...], worker_bytes: int) -> Terms:
        wallet = NO_WALLET if self._wallet is None else self._wallet.address
        return Terms(
            price_per_hour=self._config.price_per_hour,
            node_wallet=wallet,
            payout_wallet=self._config.payout or wallet,
            flops_per_s=speeds,
            max_data_bytes=self._config.storage_bytes // 2,
            patience=Patience(engine_s=self._config.engine_patience_s),
            settle_grace_s=self._config.settle_grace_s,
            min_claim_window_s=self._config.min_claim_window_s,
            streams=self._config.streams,
            stream_ahead_bytes=self._config.stream_ahead_bytes,
            serving=ServingLimits(served_formats(), worker_bytes) if self._config.serves else NO_SERVING,
        )

    async def _open_jobs(self, terms: Terms) -> tuple[Services, JobTable, InferenceService]:
        await self._artifacts.load()
        deployments = Deployments(
            self._workers, lambda: self._idlest(table), self._artifacts.files.path, self._nursery
        )
        hosting = Hosting(self._data_dir.path / "hosted", self._nursery, self._config.sandbox)
        served = ServedModels(hosting, self._nursery)
        services = Services(
            self._network,
            self._link,
            self._money,
            self._store,
            self._artifacts,
            self._workers,
            deployments,
            self._nursery,
            self._now,
            terms,
            self._access,
            served,
        )
        table = JobTable(services, self._nursery)
        await self._remembered_chain()
        await table.recover()
        self._network.set_handler(JOB_PROTOCOL, JobStreams(services, table).handle)
        serve_transfers(self._network, self._artifacts.files, self._artifacts.may_fetch, self._now)
        inference = InferenceService(
            self._network, self._access, self._store, self._artifacts, deployments, served, self._now
        )
        inference.serve()
        return services, table, inference

    async def _money(self) -> Money:
        """What an earlier run with a coordinator left unpaid waits for the next such run."""
        if self._treasury is None:
            await trio.sleep_forever()
        return await self._treasury.money()

    def _idlest(self, table: JobTable) -> int:
        return table.devices.least_utilized([0.0] * table.devices.count)

    async def _remembered_chain(self) -> None:
        """Payments left unfinished go on even while the coordinator is away."""
        known = await self._known_chain()
        if known is not None and self._treasury is not None:
            self._treasury.use(known)

    async def _known_chain(self) -> ChainInfo | None:
        stored = await self._store.fact(self._chain_fact)
        return None if stored is None else msgspec.msgpack.decode(stored, type=ChainInfo)

    async def _use_chain(self, info: ChainInfo) -> None:
        """Raises ChainNotTrustedError; then the coordinator is not worked for."""
        trusted = parse_trusted(self._config.escrow) if self._config.escrow else None
        check_chain(info, self._link.coordinator_id, await self._known_chain(), trusted)
        await self._store.remember(self._chain_fact, msgspec.msgpack.encode(info))
        if self._treasury is not None:
            self._treasury.use(info)

    async def _keep_house(self) -> None:
        while True:
            await self._artifacts.drop_old_results(self._now())
            await self._store.forget_retired()
            await trio.sleep(HOUSEKEEPING_S)

    async def _announce_ready(self, terms: Terms) -> None:
        if self._config.coordinator is not None:
            with trio.move_on_after(READY_WAIT_S):
                await self._link.attempted.wait()
        self._data_dir.write_ready(
            {
                "peer_id": self._network.peer_id,
                "addresses": list(self._network.addresses()),
                "node_wallet": terms.node_wallet,
                "payout_wallet": terms.payout_wallet,
                "registered": self._link.is_up,
            }
        )
        log.info("peer ready", peer_id=self._network.peer_id, addresses=list(self._network.addresses()))


def worker_memory(machine: Machine, devices: int) -> int:
    """What one worker may hold: the machine's memory but for a quarter, shared out."""
    return int(machine.ram_bytes * WORKER_MEMORY_SHARE) // max(1, devices)


async def _open_pool(
    stack: AsyncExitStack,
    config: Config,
    directory: Path,
    device: OfferedDevice,
    number: int,
    memory_bytes: int,
) -> WorkerPool:
    pool_config = PoolConfig(
        directory=directory / "workers" / str(number),
        prewarmed=config.prewarmed,
        memory_bytes=memory_bytes,
        disk_bytes=config.storage_bytes,
        sandbox=config.sandbox,
        device=device.torch_name,
    )
    return await stack.enter_async_context(open_pool(pool_config))


def _wallet(path: Path, *, needed: bool) -> Wallet | None:
    """A new one is made only where somebody could pay into it."""
    if path.is_dir():
        raise ConfigError(f"{path} is a directory, expected a wallet file")
    if path.exists():
        return Wallet.load(path)
    return Wallet.create(path) if needed else None
