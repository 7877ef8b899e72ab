"""A coordinator names chain, program and mint; a wallet signs only for what cannot rob it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coordinator.chain.genesis import MINT, PROGRAM_ID
from p2p.chain.errors import ChainNotTrustedError
from p2p.chain.trust import (
    CYXWIZ_MINT,
    EMBEDDED_MINT,
    EMBEDDED_PROGRAM,
    TrustedEscrow,
    check_chain,
    outbox_name,
    parse_trusted,
)
from p2p.chain.wallet import Wallet
from p2p.identity import Identity
from p2p.protocols.coordinator import ChainInfo
from p2p.session.errors import SetupError
from p2p.session.places import Places

KEY, OTHER, EVIL = (Wallet.from_seed(bytes([number]) * 32).address for number in (1, 2, 3))
WHO = Identity.from_seed(b"\x05" * 32).peer_id
EMBEDDED = ChainInfo("http://127.0.0.1:1", EMBEDDED_PROGRAM, EMBEDDED_MINT, KEY, KEY, True, 60)
REAL = ChainInfo("https://rpc", OTHER, CYXWIZ_MINT, KEY, KEY, False, 60)
TRUSTED = TrustedEscrow(OTHER)


def changed(info: ChainInfo, **fields: object) -> ChainInfo:
    return msgspec.structs.replace(info, **fields)


def test_the_embedded_chain_runs_the_program_that_is_trusted() -> None:
    assert (PROGRAM_ID, MINT) == (EMBEDDED_PROGRAM, EMBEDDED_MINT)


@pytest.mark.parametrize(
    ("info", "known", "trusted"),
    [
        (EMBEDDED, None, None),
        (changed(EMBEDDED, rpc_url="http://127.0.0.1:2", arbiter=OTHER), EMBEDDED, None),
        (REAL, None, TRUSTED),
        (REAL, EMBEDDED, TRUSTED),
        (REAL, changed(REAL, program_id=KEY), TRUSTED),
    ],
)
def test_what_cannot_rob_the_wallet_is_used(
    info: ChainInfo, known: ChainInfo | None, trusted: TrustedEscrow | None
) -> None:
    check_chain(info, WHO, known, trusted)


@pytest.mark.parametrize(
    ("info", "known", "trusted", "words"),
    [
        (changed(EMBEDDED, program_id=EVIL), None, None, f"names escrow program {EVIL}"),
        (changed(EMBEDDED, mint=EVIL), None, None, f"an embedded chain has {EMBEDDED_PROGRAM}"),
        (REAL, None, None, f"name the one that you trust as escrow = {OTHER}/{CYXWIZ_MINT}"),
        (REAL, EMBEDDED, None, "pays on a real network"),
        (changed(REAL, program_id=EVIL), REAL, TRUSTED, f"trusted is {OTHER}"),
        (changed(REAL, mint=EVIL), None, TRUSTED, f"mint {EVIL}"),
        (EMBEDDED, REAL, None, f"before, on a real network, it named {OTHER}"),
    ],
)
def test_a_program_that_the_coordinator_may_have_written_is_not_signed_for(
    info: ChainInfo, known: ChainInfo | None, trusted: TrustedEscrow | None, words: str
) -> None:
    with pytest.raises(ChainNotTrustedError, match=words):
        check_chain(info, WHO, known, trusted)


def test_program_and_mint_are_named_as_addresses() -> None:
    assert parse_trusted(OTHER) == TRUSTED
    assert parse_trusted(f"{OTHER}/{KEY}") == TrustedEscrow(OTHER, KEY)
    with pytest.raises(ChainNotTrustedError, match="'nonsense', allowed PROGRAM or PROGRAM/MINT"):
        parse_trusted("nonsense")


def test_a_payment_of_one_chain_is_never_made_on_another() -> None:
    names = {
        outbox_name(EMBEDDED, WHO),
        outbox_name(EMBEDDED, "another coordinator"),
        outbox_name(REAL, WHO),
        outbox_name(changed(REAL, mint=KEY), WHO),
    }
    assert len(names) == 4
    assert outbox_name(changed(EMBEDDED, rpc_url="http://127.0.0.1:2"), WHO) == outbox_name(EMBEDDED, WHO)


def test_chains_of_several_coordinators_are_remembered(tmp_path: Path) -> None:
    places = Places(tmp_path)
    first, second = (
        f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.from_seed(bytes([n]) * 32).peer_id}" for n in (1, 2)
    )
    assert places.remembered_chain(first) is None
    places.remember_chain(first, EMBEDDED)
    places.remember_chain(second, REAL)
    assert (places.remembered_chain(first), places.remembered_chain(second)) == (EMBEDDED, REAL)
    places.chains.write_bytes(b"{")
    with pytest.raises(SetupError, match="is damaged"):
        places.remembered_chain(first)
