"""What everybody holds on the chain, before and after a job: nothing lost, nothing paid twice."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from demo import balances, chain_info
from local_network import LocalNetwork, wait_until

CLOSED = ("settled", "refunded")
CLOSE_DEADLINE_S = 120.0


class Money:
    """What user, peers and platform hold, before and after jobs."""

    def __init__(self, network: LocalNetwork) -> None:
        self._network = network
        self._wallets = {"user": network.ask_engine("wallet", "show")["address"]}
        for name, program in network.programs.items():
            if name != "coordinator" and program.is_running:
                status = network.ask(name, "status")
                self._wallets[status["peer_id"]] = status["payout_wallet"]
        self._before = self._look()

    def join(self, peer: dict[str, Any]) -> None:
        """A peer that has started since, as it said when it was ready."""
        self._wallets[peer["peer_id"]] = peer["payout_wallet"]
        self._before = self._look()

    def _look(self) -> dict[str, int]:
        return trio.run(balances, chain_info(self._network), self._wallets)

    def check(self, *job_ids: str) -> list[dict[str, Any]]:
        """Returns the jobs' escrows, oldest first, once each is closed: the user paid what was earned,
        nine tenths of it went to the peers that earned it, and the rest to the platform."""
        payments = wait_until(lambda: self._closed(job_ids), CLOSE_DEADLINE_S, "every escrow to be closed")
        after = self._look()
        expected = dict(self._before)
        for payment in payments:
            expected["user"] -= payment["earned"]
            expected["platform"] += payment["earned"] // 10
            if payment["earned"]:
                expected[payment["peer_id"]] += payment["earned"] - payment["earned"] // 10
        assert after == expected
        self._before = after
        return payments

    def check_nobody_earned(self, at_stake: int) -> None:
        """After a job that ended before its escrow counted: that may still hold ``at_stake`` for the user,
        whose Engine takes it back by itself after the claim window."""
        before, self._before = self._before, self._look()
        missing = before["user"] - self._before["user"]
        assert self._before == {**before, "user": self._before["user"]}
        assert missing in (0, at_stake)

    def check_paid_once(self, job_id: str, segments: int) -> None:
        """After a job that is settled: no segment was paid twice, and none not at all."""
        paid = 0.0
        for payment in self.check(job_id):
            paid += (segments - payment["first_segment"]) * payment["earned"] / payment["amount"]
        assert paid == pytest.approx(segments, abs=0.001)

    def _closed(self, job_ids: tuple[str, ...]) -> list[dict[str, Any]] | None:
        payments = [
            entry for entry in self._network.ask("coordinator", "payments") if entry["job_id"] in job_ids
        ]
        return payments if payments and all(entry["state"] in CLOSED for entry in payments) else None
