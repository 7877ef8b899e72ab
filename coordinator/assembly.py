"""One coordinator put together on any network, chain and clock. Decides nothing itself.

``coordinator.daemon`` runs it on real ones, the simulation on ones that lose and crash.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from coordinator.config import Config
from coordinator.database import Write
from coordinator.effects import EffectRunner, PaysOnce, ReadsEscrows
from coordinator.handlers import serve
from coordinator.leases import LeaseBook
from coordinator.ledger import Ledger
from coordinator.matching import Matching
from coordinator.registry import Registry
from coordinator.services import Limits, Services
from coordinator.state import Policy
from coordinator.store import RunBlocking, open_store
from coordinator.timers import Timers
from coordinator.tokens import TokenBook
from p2p.chain.escrow_codec import escrow_address
from p2p.network import Network
from p2p.protocols.coordinator import ChainInfo
from p2p.tasks import background_tasks

log = structlog.get_logger(__name__)

HOUSEKEEPING_S = 600.0
SILENT_BEATS = 4
"""Heartbeats that a peer may miss before it is offered nothing; its lease lives on for longer."""
LEASE_CHECKS = 8
"""In each period of a lease."""


@dataclass(frozen=True, slots=True)
class World:
    """What a coordinator stands on."""

    network: Network
    chain_info: ChainInfo
    chain: ReadsEscrows
    payer: PaysOnce
    now: Callable[[], float]
    """Wall clock."""
    run_blocking: RunBlocking = trio.to_thread.run_sync
    new_id: Callable[[], str] = field(default=lambda: secrets.token_hex(16))
    limits: Limits = field(default_factory=Limits)


@asynccontextmanager
async def open_coordinator(path: Path, config: Config, world: World) -> AsyncIterator[Services]:
    """Answers calls until the block is left. ``path`` is its database.

    Raises StoreError, also out of the block when the disk fails.
    """
    async with open_store(path, world.run_blocking) as store:
        kept = await store.read(store.database.load)
        ledger = Ledger(store, kept, world.now)
        services = _services(config, world, ledger, TokenBook(kept.tokens))
        ledger.listeners.job_changed.append(services.job_changed)
        await services.take_up_tokens()
        timers = Timers(ledger, services.policy, services.leases, trio.current_time)
        effects = EffectRunner(ledger, world.payer, world.chain, kept.effects)
        log.info("state loaded", jobs=len(kept.jobs), unfinished_payments=len(kept.effects))
        async with background_tasks() as nursery:
            nursery.start_soon(effects.run)
            nursery.start_soon(timers.run)
            nursery.start_soon(timers.watch_leases, config.lease_s / LEASE_CHECKS)
            nursery.start_soon(services.matching.run)
            nursery.start_soon(_keep_house, services)
            serve(world.network, services)
            yield services


def _services(config: Config, world: World, ledger: Ledger, tokens: TokenBook) -> Services:
    info = world.chain_info
    policy = Policy(offer_s=config.offer_s, fund_s=config.fund_s, retry_patience_s=config.retry_patience_s)
    registry = Registry(silence_s=min(config.lease_s, SILENT_BEATS * config.heartbeat_s))
    return Services(
        ledger=ledger,
        registry=registry,
        matching=Matching(ledger, registry, policy, world.new_id, world.run_blocking),
        leases=LeaseBook(config.lease_s),
        chain=world.chain,
        chain_info=info,
        escrow_address=lambda user, job, deadline: escrow_address(info.program_id, user, job, deadline),
        signer=world.network,
        policy=policy,
        heartbeat_s=config.heartbeat_s,
        lease_s=config.lease_s,
        run_blocking=world.run_blocking,
        now=world.now,
        monotonic=trio.current_time,
        new_id=world.new_id,
        limits=world.limits,
        tokens=tokens,
    )


async def _keep_house(services: Services) -> None:
    while True:
        await trio.sleep(HOUSEKEEPING_S)
        services.registry.forget_silent(services.now())
        write = Write(services.now(), forget_orders=True, forget_jobs=True)
        await services.ledger.store.enqueue(write).wait()
