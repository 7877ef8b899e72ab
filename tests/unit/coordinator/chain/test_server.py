"""The chain over real HTTP: what it refuses, and solana-py's own client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h11
import httpx2
import pytest
import trio
import trio.testing
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solana.rpc.core import RPCException
from solana.rpc.models import MemcmpOpts, TokenAccountOpts, TxOpts
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from solders.transaction import VersionedTransaction

from coordinator.chain import rpc
from coordinator.chain.genesis import MINT, PROGRAM_ID, genesis_info
from coordinator.chain.server import (
    MAX_BODY_BYTES,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_ADDRESS,
    MAX_REQUESTS_PER_S,
    ChainConfig,
    _Server,
    open_rpc,
    run_chain,
)
from coordinator.chain.store import ChainStore
from p2p.chain.escrow_codec import TOKEN_PROGRAM, token_account_of
from p2p.chain.wallet import Wallet

PLATFORM = Wallet.generate().address


@contextlib.asynccontextmanager
async def chain(directory: Path) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(run_chain, ChainConfig(directory, slot_ms=20, platform_wallet=PLATFORM))
        nursery.cancel_scope.cancel()


async def post(url: str, content: bytes, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.post(url, content=content, headers={"content-type": "application/json"} | headers)


def request(method: str, *parameters: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()


async def test_the_calls_of_solana_py_are_answered(tmp_path: Path) -> None:
    wallet = Keypair()
    async with chain(tmp_path) as url, AsyncClient(url, Confirmed) as client:
        assert await client.is_connected()
        await client.get_version()
        await client.get_epoch_info()
        assert (await client.get_slot()).value > 0
        assert (await client.get_minimum_balance_for_rent_exemption(165)).value == 2_039_280
        await client.request_airdrop(wallet.pubkey(), 10**9)
        assert (await client.get_balance(wallet.pubkey())).value == 10**9
        blockhash = (await client.get_latest_blockhash()).value.blockhash
        gift = transfer(TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=wallet.pubkey(), lamports=1))
        transaction = VersionedTransaction(
            MessageV0.try_compile(wallet.pubkey(), [gift], [], blockhash), [wallet]
        )
        assert (await client.get_fee_for_message(transaction.message)).value == 5000
        assert (await client.simulate_transaction(transaction, sig_verify=True)).value.err is None
        signature = (await client.send_raw_transaction(bytes(transaction))).value
        assert (await client.get_signature_statuses([signature])).value[0].err is None
        assert (await client.get_transaction(signature, "base64")).value.slot > 0
        with pytest.raises(RPCException, match="AlreadyProcessed"):
            await client.send_raw_transaction(bytes(transaction))
        again = TxOpts(skip_preflight=True)
        assert (await client.send_raw_transaction(bytes(transaction), again)).value == signature
        found = (await client.get_signatures_for_address(wallet.pubkey(), limit=1)).value
        assert [item.signature for item in found] == [signature]


async def test_tokens_are_read_as_solana_py_reads_them(tmp_path: Path) -> None:
    owner = Wallet.generate()
    account = Pubkey.from_string(token_account_of(owner.address, MINT))
    async with chain(tmp_path) as url, AsyncClient(url, Confirmed) as client:
        await post(url, request("requestTokenAirdrop", owner.address, 1_500_000_000))
        assert (await client.get_token_account_balance(account)).value.ui_amount_string == "1.5"
        assert (await client.get_token_supply(Pubkey.from_string(MINT))).value.amount == "1500000000"
        mine = TokenAccountOpts(mint=Pubkey.from_string(MINT))
        assert len((await client.get_token_accounts_by_owner(owner.keypair.pubkey(), mine)).value) == 1
        filters = [165, MemcmpOpts(offset=32, bytes=owner.address)]
        assert len((await client.get_program_accounts(TOKEN_PROGRAM, filters=filters)).value) == 1
        assert (await client.get_account_info_json_parsed(account)).value.owner == TOKEN_PROGRAM
        program = (await client.get_account_info(Pubkey.from_string(PROGRAM_ID))).value
        assert program is not None and program.executable
        platform = Pubkey.from_string(genesis_info(PLATFORM).platform_account)
        assert (await client.get_account_info(platform)).value is not None


async def test_a_transaction_with_a_forged_signature_or_unknown_blockhash_does_not_land(
    tmp_path: Path,
) -> None:
    wallet = Keypair()
    async with chain(tmp_path) as url, AsyncClient(url, Confirmed) as client:
        await client.request_airdrop(wallet.pubkey(), 10**9)
        blockhash = (await client.get_latest_blockhash()).value.blockhash
        gift = transfer(TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=wallet.pubkey(), lamports=1))
        message = MessageV0.try_compile(wallet.pubkey(), [gift], [], blockhash)
        forged = VersionedTransaction.populate(message, [Keypair().sign_message(b"something else")])
        with pytest.raises(RPCException, match="SignatureVerificationFailure"):
            await client.send_raw_transaction(bytes(forged), TxOpts(skip_preflight=True))
        stranger = MessageV0.try_compile(wallet.pubkey(), [gift], [], type(blockhash).new_unique())
        late = VersionedTransaction(stranger, [wallet])
        await client.send_raw_transaction(bytes(late), TxOpts(skip_preflight=True))
        assert (await client.get_signature_statuses([late.signatures[0]])).value == [None]
        with pytest.raises(RPCException, match="BlockhashNotFound"):
            await client.send_raw_transaction(bytes(late))
        assert (await client.get_balance(wallet.pubkey())).value == 10**9


async def test_what_a_web_page_could_send_is_refused(tmp_path: Path) -> None:
    async with chain(tmp_path) as url:
        body = request("getHealth")
        assert (await post(url, body)).status_code == 200
        assert (await post(url, body, host="evil.example")).status_code == 403
        assert (await post(url, body, **{"content-type": "text/plain"})).status_code == 415
        async with httpx2.AsyncClient() as client:
            assert (await client.get(url)).status_code == 405


async def test_what_is_too_large_or_malformed_is_refused_and_the_chain_lives(tmp_path: Path) -> None:
    async with chain(tmp_path) as url:
        assert (await post(url, b" " * (MAX_BODY_BYTES + 1))).status_code == 413
        for body, code in [
            (b"{", -32700),
            (b"[" * 100_000, -32700),
            (b"[]", -32600),
            (b"7", -32600),
            (b'{"method": 7}', -32600),
            (json.dumps([{}] * 101).encode(), -32600),
            (request("noSuchMethod"), -32601),
            (request("getBalance"), -32602),
            (request("getBalance", "not an address"), -32602),
            (request("getAccountInfo", MINT, 7), -32602),
            (request("getMultipleAccounts", [MINT] * 101), -32602),
            (request("getSignatureStatuses", ["x"] * 257), -32602),
            (request("sendTransaction", "AAAA", {"encoding": "base64"}), -32602),
            (request("sendTransaction", "A" * 4000, {"encoding": "base64"}), -32602),
            (request("requestTokenAirdrop", MINT, -1), -32602),
            (request("requestTokenAirdrop", PLATFORM, 10**19), -32602),
            (request("getTokenAccountsByOwner", PLATFORM, []), -32602),
            (request("getTokenAccountsByOwner", PLATFORM, "x"), -32602),
            (request("getSignaturesForAddress", PLATFORM, {"before": []}), -32602),
            (request("getSignaturesForAddress", PLATFORM, {"until": {}}), -32602),
            (request("getProgramAccounts", str(TOKEN_PROGRAM), {"filters": [{"memcmp": 5}]}), -32602),
            (request("getAccountInfo", MINT, {"encoding": "base64", "dataSlice": 5}), -32602),
        ]:
            answer = (await post(url, body)).json()
            assert answer["error"]["code"] == code, (body[:60], answer)
        async with await trio.open_tcp_stream("127.0.0.1", int(url.rsplit(":", 1)[1])) as stream:
            await stream.send_all(b"\x00\x01nonsense\r\n\r\n")
            assert await stream.receive_some() in (b"",)
        assert (await post(url, request("getHealth"))).json()["result"] == "ok"


async def test_an_answer_of_accounts_larger_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may have accounts of 10 MB on a chain whose coins are given away."""
    size = 9_000
    monkeypatch.setattr(rpc, "MAX_ANSWER_BYTES", 6 * size)
    wallet, large = Keypair(), Keypair()
    async with chain(tmp_path) as url, AsyncClient(url, Confirmed) as client:
        rent = (await client.get_minimum_balance_for_rent_exemption(size)).value
        await client.request_airdrop(wallet.pubkey(), rent + 10**9)
        blockhash = (await client.get_latest_blockhash()).value.blockhash
        create = create_account(
            CreateAccountParams(
                from_pubkey=wallet.pubkey(),
                to_pubkey=large.pubkey(),
                lamports=rent,
                space=size,
                owner=wallet.pubkey(),
            )
        )
        message = MessageV0.try_compile(wallet.pubkey(), [create], [], blockhash)
        options = TxOpts(skip_preflight=True, preflight_commitment=Confirmed)
        await client.send_raw_transaction(bytes(VersionedTransaction(message, [wallet, large])), options)
        few, many = [[str(large.pubkey())] * number for number in (5, 6)]
        asked = request("getMultipleAccounts", few, {"encoding": "base64"})
        found = (await post(url, asked)).json()["result"]["value"]
        assert [account["space"] for account in found] == [size] * 5
        refused = (await post(url, request("getMultipleAccounts", many, {"encoding": "base64"}))).json()
        assert "ask for less" in refused["error"]["message"]
        one = json.loads(request("getAccountInfo", str(large.pubkey()), {"encoding": "base64"}))
        batch = (await post(url, json.dumps([one] * 6).encode())).json()
        assert ["result" in answer for answer in batch] == [True] * 5 + [False]


class _SlowDisk:
    """Takes a batch's flush, and ends it when it is told to."""

    def __init__(self, store: ChainStore) -> None:
        self._store = store
        self.asked, self.goes_on = trio.Event(), trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def flush(self) -> None:
        if not self.asked.is_set():
            self.asked.set()
            await self.goes_on.wait()


async def test_an_answer_has_its_room_whatever_another_takes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "MAX_ANSWER_BYTES", 3 * rpc.ENTRY_BYTES)
    nobody = str(Keypair().pubkey())
    one = request("getMultipleAccounts", [nobody] * 3)
    disk = _SlowDisk(ChainStore(tmp_path / "chain.sqlite"))
    node, answers = open_rpc(disk, 0.4, lambda: 1e9, lambda: 0.0), list[Any]()  # type: ignore[arg-type]

    async def ask() -> None:
        answers.append(json.loads(await node.answer(b"[" + one + b"]")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await disk.asked.wait()
        await node.answer(one)
        disk.goes_on.set()
    disk.close()
    assert answers[0][0]["result"]["value"] == [None] * 3


async def test_another_machine_leaves_connections_and_requests_to_this_one() -> None:
    async def converse(address: str, room: trio.Event) -> None:
        server_end, client_end = trio.testing.memory_stream_pair()
        await server.handle(_From(server_end, address))  # type: ignore[arg-type]
        assert await client_end.receive_some(1) == b""
        room.set()

    async with trio.open_nursery() as nursery:
        server = _Server(None, "0.0.0.0")  # type: ignore[arg-type]
        for address, most in (
            ("192.0.2.1", MAX_CONNECTIONS_OF_ADDRESS),
            ("::ffff:127.0.0.1", MAX_CONNECTIONS),
        ):
            turned_away = trio.Event()
            for _ in range(most + 1):
                nursery.start_soon(converse, address, turned_away)
            await turned_away.wait()
        head = [("host", "0.0.0.0"), ("content-type", "application/json")]
        asked = h11.Request(method="POST", target="/", headers=head)
        allowed = [server._refusal(asked, "192.0.2.1") for _ in range(MAX_REQUESTS_PER_S)].count(None)
        assert 0 < allowed <= MAX_REQUESTS_PER_S // 2
        assert server._refusal(asked, "127.0.0.1") is None
        nursery.cancel_scope.cancel()


class _From:
    """A connection in memory that says where it comes from."""

    def __init__(self, stream: trio.StapledStream, address: str) -> None:
        self.receive_some, self.send_all = stream.receive_some, stream.send_all
        self.socket = self
        self._stream, self._address = stream, address

    def getpeername(self) -> tuple[str, int]:
        return self._address, 1

    async def __aenter__(self) -> _From:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.aclose()


async def test_a_restart_shows_the_same_chain(tmp_path: Path) -> None:
    owner = Wallet.generate().address
    async with chain(tmp_path) as url:
        first = (await post(url, request("requestTokenAirdrop", owner, 5))).json()["result"]
        slot = (await post(url, request("getSlot", {"commitment": "processed"}))).json()["result"]
    async with chain(tmp_path) as url:
        history = (await post(url, request("getSignaturesForAddress", owner))).json()["result"]
        assert [item["signature"] for item in history] == [first]
        assert (await post(url, request("getSlot", {"commitment": "processed"}))).json()["result"] > slot
        second = (await post(url, request("requestTokenAirdrop", owner, 5))).json()["result"]
        history = (await post(url, request("getSignaturesForAddress", owner))).json()["result"]
        assert [item["signature"] for item in history] == [second, first]
