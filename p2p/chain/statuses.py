"""Asks for the status of many transactions in one request. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from p2p.chain.client import MAX_STATUSES, ChainClient
from p2p.chain.errors import ChainError, ChainUnavailableError
from p2p.chain.outbox import TransactionStatus


@dataclass(eq=False, slots=True)
class _Question:
    signature: str
    answered: trio.Event = field(default_factory=trio.Event)
    height: int = 0
    status: TransactionStatus | None = None
    error: str | None = None


class StatusPoller:
    """Gathers questions for ``poll_s`` seconds, then asks once for all of them."""

    def __init__(self, chain: ChainClient, poll_s: float) -> None:
        self._chain = chain
        self._poll_s = poll_s
        self._questions: list[_Question] = []
        self._asked = trio.Event()

    async def look(self, signature: str) -> tuple[int, TransactionStatus | None]:
        """The finalized height, and the signature's status as read after it. Raises ChainError."""
        question = _Question(signature)
        self._questions.append(question)
        self._asked.set()
        await question.answered.wait()
        if question.error is not None:
            raise ChainUnavailableError(question.error)
        return question.height, question.status

    async def run(self) -> None:
        while True:
            await self._asked.wait()
            await trio.sleep(self._poll_s)
            batch, self._questions = self._questions[:MAX_STATUSES], self._questions[MAX_STATUSES:]
            if not self._questions:
                self._asked = trio.Event()
            await self._answer(batch)

    async def _answer(self, batch: list[_Question]) -> None:
        try:
            height = await self._chain.finalized_height()
            statuses = await self._chain.statuses([question.signature for question in batch])
        except ChainError as error:
            for question in batch:
                question.error = str(error)
        else:
            for question, status in zip(batch, statuses, strict=True):
                question.height, question.status = height, status
        for question in batch:
            question.answered.set()
