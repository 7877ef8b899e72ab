"""The escrow's bytes, pinned: programs of different versions must agree on them."""

from __future__ import annotations

import struct

import pytest
from solders.pubkey import Pubkey

from p2p.chain import escrow_codec
from p2p.chain.errors import EscrowInvalidError
from p2p.chain.escrow_codec import ESCROW_BYTES, EscrowStatus, EscrowTerms, decode_escrow
from p2p.vouchers import Voucher

KEYS = [bytes([number]) * 32 for number in range(1, 10)]
USER, NODE, PAYOUT, ARBITER, MINT, PLATFORM = (str(Pubkey(key)) for key in KEYS[:6])
PROGRAM = str(Pubkey(KEYS[8]))
JOB = "cd" * 32


def account(tag: bytes = b"CYXESCR1", status: int = 1) -> bytes:
    numbers = struct.pack("<QQQqqqQQ", 1000, 10, 5, 60, 2_000_000_000, 7, status, 254)
    return tag + b"".join(KEYS[:8]) + bytes.fromhex(JOB) + numbers


def test_an_account_decodes_field_by_field() -> None:
    assert len(account()) == ESCROW_BYTES == 360
    escrow = decode_escrow(account())
    names = ("user", "node", "payout", "arbiter", "mint", "platform", "payer", "vault")
    assert [getattr(escrow, name) for name in names] == [str(Pubkey(key)) for key in KEYS[:8]]
    assert (escrow.job_id, escrow.amount, escrow.earned, escrow.arbiter_cap) == (JOB, 1000, 10, 5)
    assert (escrow.claim_window_s, escrow.deadline, escrow.refund_requested_at) == (60, 2_000_000_000, 7)
    assert (escrow.status, escrow.bump) == (EscrowStatus.OPEN, 254)


@pytest.mark.parametrize(
    "data", [b"", account()[:-1], account() + b"\0", account(tag=b"CYXESCR2"), account(status=4)]
)
def test_what_is_no_escrow_is_refused(data: bytes) -> None:
    with pytest.raises(EscrowInvalidError):
        decode_escrow(data)


def test_the_address_depends_on_user_job_and_deadline() -> None:
    address = escrow_codec.escrow_address(PROGRAM, USER, JOB, 2_000_000_000)
    expected = Pubkey.find_program_address(
        [b"escrow", KEYS[0], bytes.fromhex(JOB), (2_000_000_000).to_bytes(8, "little")], Pubkey(KEYS[8])
    )[0]
    assert address == str(expected)
    assert address != escrow_codec.escrow_address(PROGRAM, USER, JOB, 2_000_000_001)
    assert address != escrow_codec.escrow_address(PROGRAM, NODE, JOB, 2_000_000_000)


def test_create_writes_its_terms() -> None:
    terms = EscrowTerms(USER, JOB, NODE, PAYOUT, ARBITER, 5, MINT, PLATFORM, 1000, 60, 2_000_000_000)
    instruction = escrow_codec.create(PROGRAM, terms, USER, rent=123)
    numbers = struct.pack("<QQqqQ", 1000, 5, 60, 2_000_000_000, 123)
    assert bytes(instruction.data) == b"\0" + bytes.fromhex(JOB) + b"".join(KEYS[1:4]) + numbers


def test_a_voucher_is_checked_in_one_fixed_layout() -> None:
    escrow = str(Pubkey(KEYS[6]))
    voucher = Voucher(escrow, 1000, True, b"s" * 64)
    data = bytes(escrow_codec.verify_voucher(USER, NODE, voucher).data)
    assert data[:16] == bytes.fromhex("0100 3000 ffff 1000 ffff 7000 5900 ffff")
    assert data[16:48] == KEYS[0]
    assert data[48:112] == b"s" * 64
    assert data[112:] == b"CYXWIZ-VOUCHER-1" + KEYS[6] + KEYS[1] + (1000).to_bytes(8, "little") + b"\1"
