"""Sees that no escrow of this wallet stays locked: whoever should return its rest may be gone.

The coordinator returns what a job left, and the peer what it did not earn. This looks after both, in
every session: what to do about an escrow is ``plan.fate_of``.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
import trio

from p2p.chain.errors import PaymentRefusedError
from p2p.errors import P2PError
from p2p.session import events, plan
from p2p.session.engine_parts import Engine
from p2p.session.job import Escrow
from p2p.session.live import LiveJob
from p2p.session.plan import Fate
from p2p.session.steps import take_back

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 60.0


class Sweeper:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stranded_at: dict[str, float] = {}
        """Since when an escrow is seen to serve no job, by address; on trio's clock."""

    async def run(self, lives: dict[str, LiveJob]) -> None:
        """For as long as the session lasts. ``lives`` may grow meanwhile."""
        while True:
            await self.look(list(lives.values()))
            await trio.sleep(LOOK_EVERY_S)

    async def look(self, lives: Iterable[LiveJob]) -> None:
        """Once at every escrow that may still hold money on this coordinator's chain."""
        for live in lives:
            if live.job.coordinator != self._engine.coordinator.peer_id:
                continue
            for escrow in live.job.escrows:
                if plan.may_be_stranded(live.job, escrow, self._engine.now()):
                    await self._look_at(live, escrow)
                else:
                    self._stranded_at.pop(escrow.address, None)

    async def _look_at(self, live: LiveJob, escrow: Escrow) -> None:
        since = self._stranded_at.setdefault(escrow.address, trio.current_time())
        try:
            account = await self._engine.treasury.escrow(escrow.address)
            stranded_s = trio.current_time() - since
            fate = plan.fate_of(live.job, escrow, account, self._engine.now(), stranded_s)
            if fate is Fate.GONE:
                await live.apply(events.EscrowClosed(escrow.address))
            elif fate is Fate.TAKE_BACK:
                signature = await take_back(self._engine, escrow)
                await live.apply(events.EscrowReclaimed(escrow.address, signature))
        except PaymentRefusedError as error:
            log.warning("not refunded, tried again later", escrow=escrow.address, reason=str(error))
        except P2PError as error:
            log.info("not refunded yet", escrow=escrow.address, reason=str(error))
