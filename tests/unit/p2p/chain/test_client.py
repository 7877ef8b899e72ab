"""What the client makes of a node's answers, good and bad."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import msgspec
import pytest
import trio
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from p2p.chain.client import ChainClient, open_chain
from p2p.chain.errors import ChainRefusedError, ChainUnavailableError, EscrowInvalidError
from p2p.chain.escrow_codec import ESCROW_BYTES
from p2p.chain.wallet import Wallet
from p2p.protocols.coordinator import ChainInfo

INFO = ChainInfo(
    rpc_url="http://chain",
    program_id=Wallet.generate().address,
    mint=Wallet.generate().address,
    platform_account=Wallet.generate().address,
    arbiter=Wallet.generate().address,
    embedded=True,
    claim_window_s=60,
)


class Node(httpx2.AsyncBaseTransport):
    """Answers every request with ``answer(method)``: bytes as they are, else as the result."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self._answer = answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(await request.aread())
        answer = self._answer(body["method"])
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx2.Response(answer)
        if not isinstance(answer, bytes):
            answer = json.dumps({"jsonrpc": "2.0", "id": body["id"], **answer}).encode()
        return httpx2.Response(200, content=answer)


def client(answer: Callable[[str], Any]) -> Any:
    return open_chain(INFO, timeout_s=5, transport=Node(answer))


REFUSAL = {"error": {"code": -32602, "message": "no"}}
CALLS: list[Callable[[ChainClient], Any]] = [
    lambda chain: chain.token_balance(INFO.arbiter),
    lambda chain: chain.lamports(INFO.arbiter),
    lambda chain: chain.escrow(INFO.arbiter),
    lambda chain: chain.airdrop(INFO.arbiter, 1),
    lambda chain: chain.history(INFO.arbiter),
    lambda chain: chain.latest_blockhash(),
    lambda chain: chain.finalized_height(),
    lambda chain: chain.statuses([]),
    lambda chain: chain.health(),
]


@pytest.mark.virtual_clock
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "answer",
    [
        None,
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        503,
        b"",
        b"{",
        b"[]",
        {"result": 7.5},
        REFUSAL,
    ],
    ids=str,
)
async def test_a_node_that_does_not_answer_well_is_unavailable(
    call: Callable[[ChainClient], Any], answer: Any
) -> None:
    async with client(lambda _: answer) as chain:
        with pytest.raises((ChainUnavailableError, ChainRefusedError)):
            await call(chain)


async def test_a_node_that_answers_some_questions_of_many_is_unavailable() -> None:
    """Whoever pairs questions with answers must not end the program."""
    answer = {"result": {"context": {"slot": 1}, "value": []}}
    async with client(lambda _: answer) as chain:
        with pytest.raises(ChainUnavailableError, match="0 of 2 questions"):
            await chain.statuses(["1" * 64, "1" * 64])
        with pytest.raises(ChainUnavailableError, match="0 of 1 questions"):
            await chain.accounts_exist([INFO.mint])


class Endless(httpx2.AsyncByteStream):
    """An answer without an end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await trio.lowlevel.checkpoint()
            yield b" " * (1 << 20)


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_larger_than_memory_is_not_read(packed: bool) -> None:
    class Bomb(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            assert request.headers["accept-encoding"] == "identity"
            return httpx2.Response(
                200, headers={"content-encoding": "gzip"} if packed else {}, stream=Endless()
            )

    async with open_chain(INFO, transport=Bomb()) as chain:
        with pytest.raises(
            ChainUnavailableError, match="packed as 'gzip'" if packed else "over 8388608 bytes"
        ):
            await chain.lamports(INFO.arbiter)


@pytest.mark.parametrize("url", ["http://[::1", "http://\x00", "x", "http://a:x"])
async def test_what_is_no_address_of_a_node_is_a_node_that_does_not_answer(url: str) -> None:
    """A peer that remembers it must start again all the same."""
    async with open_chain(msgspec.structs.replace(INFO, rpc_url=url)) as chain:
        with pytest.raises(ChainUnavailableError):
            await chain.lamports(INFO.arbiter)


async def test_a_transaction_is_tried_without_the_signatures_that_could_land_it() -> None:
    """What the node calls impossible now it must not be able to send later."""
    wallet, asked = Keypair(), []
    gift = transfer(TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=wallet.pubkey(), lamports=1))
    message = MessageV0.try_compile(wallet.pubkey(), [gift], [], Hash.default())
    signed = bytes(VersionedTransaction(message, [wallet]))

    class Asked(Node):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            asked.append(json.loads(await request.aread())["params"][0])
            return await super().handle_async_request(request)

    value = {"err": None, "logs": [], "accounts": None, "unitsConsumed": 1, "returnData": None}
    answer = {"result": {"context": {"slot": 1}, "value": value}}
    async with open_chain(INFO, transport=Asked(lambda _: answer)) as chain:
        assert await chain.simulate(signed) is None
    [sent] = [VersionedTransaction.from_bytes(base64.b64decode(text)) for text in asked]
    assert sent.message == message and sent.signatures == [Signature.default()]


async def test_an_error_of_the_node_is_told_in_its_words() -> None:
    refusal = {
        "error": {"code": -32005, "message": "Node is behind by 42 slots", "data": {"numSlotsBehind": 42}}
    }
    async with client(lambda _: refusal) as chain:
        with pytest.raises((ChainRefusedError, ChainUnavailableError), match=r"behind|Behind|unhealthy"):
            await chain.lamports(INFO.arbiter)


async def test_an_account_of_another_program_is_no_escrow() -> None:
    value = {
        "lamports": 1,
        "owner": INFO.mint,
        "executable": False,
        "rentEpoch": 0,
        "space": 360,
        "data": ["AAAA", "base64"],
    }
    answer = {"result": {"context": {"slot": 1}, "value": value}}
    async with client(lambda _: answer) as chain:
        with pytest.raises(EscrowInvalidError, match="belongs to program"):
            await chain.escrow(INFO.arbiter)


async def test_what_is_left_of_a_closed_escrow_is_none() -> None:
    """Somebody may keep the account alive; whoever reads it must not wait for it to make sense."""
    data = base64.b64encode(bytes(8) + b"x" * (ESCROW_BYTES - 8)).decode()
    value = {
        "lamports": 1,
        "owner": INFO.program_id,
        "executable": False,
        "rentEpoch": 0,
        "space": ESCROW_BYTES,
        "data": [data, "base64"],
    }
    answer = {"result": {"context": {"slot": 1}, "value": value}}
    async with client(lambda _: answer) as chain:
        assert await chain.escrow(INFO.arbiter) is None


async def test_a_node_that_asks_for_all_lamports_as_rent_gets_none() -> None:
    async with client(lambda _: {"result": 10**9}) as chain:
        with pytest.raises(ChainRefusedError, match="rent of 1000000000 lamports for 360 bytes, allowed"):
            await chain.rent(360)


async def test_a_wallet_without_a_token_account_has_nothing() -> None:
    async with client(lambda _: {"result": {"context": {"slot": 1}, "value": None}}) as chain:
        assert await chain.token_balance(INFO.arbiter) == 0
        assert await chain.escrow(INFO.arbiter) is None


@pytest.mark.virtual_clock
async def test_transactions_of_one_moment_share_a_blockhash() -> None:
    asked: list[str] = []

    def answer(method: str) -> Any:
        asked.append(method)
        blockhash = Wallet.generate().address
        context = {"slot": 1, "apiVersion": "1.0.0"}
        return {"result": {"context": context, "value": {"blockhash": blockhash, "lastValidBlockHeight": 9}}}

    async with client(answer) as chain:
        first = await chain.latest_blockhash()
        assert await chain.latest_blockhash() == first
        await trio.sleep(1)
        assert await chain.latest_blockhash() != first
    assert asked == ["getLatestBlockhash"] * 2
