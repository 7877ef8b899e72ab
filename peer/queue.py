"""Which Engine's job gets the next free device: who asked first, as long as it goes on asking. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from p2p.identifiers import PeerId
from peer.errors import OfferRefusedError

TICKET_LIFE_S = 30.0
"""A place in the queue is lost when its Engine does not ask for so long."""
MAX_TICKETS = 64
MAX_TICKETS_OF_ENGINE = 8


@dataclass(frozen=True, slots=True)
class Ticket:
    engine_id: PeerId
    job_id: str
    asked_at: float


@dataclass(frozen=True, slots=True)
class LeaseQueue:
    tickets: tuple[Ticket, ...] = ()

    def ask(self, engine_id: PeerId, job_id: str, now: float) -> tuple[LeaseQueue, int]:
        """The queue, and the job's position in it from 0. Raises OfferRefusedError when it is full."""
        alive = self.alive(now)
        for position, ticket in enumerate(alive):
            if (ticket.engine_id, ticket.job_id) == (engine_id, job_id):
                renewed = replace(ticket, asked_at=now)
                return LeaseQueue((*alive[:position], renewed, *alive[position + 1 :])), position
        if len(alive) >= MAX_TICKETS:
            raise OfferRefusedError(f"{len(alive)} jobs wait here already, limit {MAX_TICKETS}")
        of_engine = sum(ticket.engine_id == engine_id for ticket in alive)
        if of_engine >= MAX_TICKETS_OF_ENGINE:
            raise OfferRefusedError(
                f"{of_engine} jobs of this Engine wait here already, limit {MAX_TICKETS_OF_ENGINE}"
            )
        return LeaseQueue((*alive, Ticket(engine_id, job_id, now))), len(alive)

    def leave(self, job_id: str) -> LeaseQueue:
        return LeaseQueue(tuple(ticket for ticket in self.tickets if ticket.job_id != job_id))

    def alive(self, now: float) -> tuple[Ticket, ...]:
        return tuple(ticket for ticket in self.tickets if now - ticket.asked_at < TICKET_LIFE_S)
