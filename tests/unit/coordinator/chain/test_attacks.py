"""Every way to get at the money that we could think of; the program refuses each."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from solders.account import Account
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from spl.token.instructions import initialize_account
from spl.token.models import InitializeAccountParams

from p2p.chain import escrow_codec
from p2p.chain.escrow_codec import EscrowStatus, token_account_of
from p2p.chain.wallet import Wallet
from p2p.vouchers import Voucher

NOT_SIGNED, NOT_OPEN, WRONG_TOKEN, WRONG_ACCOUNT, WRONG_VAULT, TOO_EARLY = range(103, 109)
WRONG_AMOUNT, WRONG_PROGRAM, CALL_FAILED, WRONG_ADDRESS, NO_VOUCHER, NOTHING_NEW, WRONG_TIME = range(109, 116)
PRECOMPILE_REFUSES = 2


def arbiter_settle(world: Any, address: str) -> Instruction:
    return escrow_codec.settle_by_arbiter(world.program, address, world.escrow(address), 1_000)


def unsigned(instruction: Instruction) -> Instruction:
    first, *rest = instruction.accounts
    accounts = [AccountMeta(first.pubkey, False, first.is_writable), *rest]
    return Instruction(instruction.program_id, bytes(instruction.data), accounts)


# -- who may do it


def test_another_or_unsigned_arbiter_cannot_settle(world: Any) -> None:
    address = world.create(arbiter_cap=5_000)
    good = arbiter_settle(world, address)
    world.refuses([world.swapped(good, 0, world.evil.address)], world.evil, code=WRONG_ACCOUNT)
    world.refuses([unsigned(good)], world.evil, code=NOT_SIGNED)


def test_without_a_cap_the_arbiter_can_pay_nothing(world: Any) -> None:
    address = world.create()
    world.refuses([arbiter_settle(world, address)], world.arbiter, code=WRONG_AMOUNT)


def test_node_and_arbiter_together_cannot_take_what_the_user_did_not_sign(world: Any) -> None:
    address = world.create()
    instruction = escrow_codec.settle(world.program, address, world.escrow(address), world.node.address)
    world.refuses([instruction], world.node, code=NO_VOUCHER)


@pytest.mark.parametrize("who", ["node", "evil", "owner"])
def test_only_user_and_arbiter_can_request_a_refund(world: Any, who: str) -> None:
    address = world.create()
    signer = getattr(world, who)
    world.refuses(world.requesting(address, signer), signer, code=WRONG_ACCOUNT)
    forged = unsigned(world.requesting(address, world.user)[0])
    world.refuses([forged], world.evil, code=NOT_SIGNED)


@pytest.mark.parametrize("who", ["user", "arbiter", "evil"])
def test_nobody_but_the_node_refunds_early(world: Any, who: str) -> None:
    address = world.create()
    signer = getattr(world, who)
    world.refuses(world.refunding(address, signer), signer, code=TOO_EARLY)
    as_node = unsigned(world.refunding(address, world.node)[0])
    world.refuses([as_node], world.evil, code=TOO_EARLY)


def test_a_user_that_did_not_sign_pays_for_nothing(world: Any) -> None:
    creation = world.creation(world.terms())[1]
    vault = escrow_codec.create_token_account(world.evil.address, world.address(world.terms()), world.mint)
    accounts = list(creation.accounts)
    accounts[0] = AccountMeta(accounts[0].pubkey, False, True)
    accounts[1] = AccountMeta(world.evil.keypair.pubkey(), True, True)
    forged = Instruction(creation.program_id, bytes(creation.data), accounts)
    world.refuses([vault, forged], world.evil, code=NOT_SIGNED)


# -- where it goes


def test_a_settle_cannot_be_redirected(world: Any) -> None:
    address = world.create()
    check, settle = world.settlement(address, world.voucher(address, world.amount, True))
    evil_tokens = token_account_of(world.evil.address, world.mint)
    other_vault = world.open_token_account(world.create(job_id="22" * 32))
    for index, account, code in [
        (0, world.evil.address, WRONG_ACCOUNT),
        (2, other_vault, WRONG_VAULT),
        (2, evil_tokens, WRONG_VAULT),
        (3, evil_tokens, WRONG_ACCOUNT),
        (4, evil_tokens, WRONG_ACCOUNT),
        (6, world.evil.address, WRONG_ACCOUNT),
        (7, world.new_mint(), WRONG_TOKEN),
        (8, world.program, WRONG_PROGRAM),
    ]:
        world.refuses([check, world.swapped(settle, index, account)], world.evil, code=code)
    assert world.tokens(address) == world.amount


def test_the_rest_of_a_final_voucher_cannot_be_redirected(world: Any) -> None:
    address = world.create()
    voucher = world.voucher(address, 1_000, True)
    check, settle = world.settlement(address, voucher, world.node)
    node_tokens = token_account_of(world.node.address, world.mint)
    world.refuses([check, world.swapped(settle, 5, node_tokens)], world.node, code=WRONG_ACCOUNT)


def test_a_refund_cannot_be_redirected(world: Any) -> None:
    address = world.create()
    refund = world.refunding(address, world.node)[0]
    node_tokens = token_account_of(world.node.address, world.mint)
    for index, account, code in [
        (2, node_tokens, WRONG_VAULT),
        (3, node_tokens, WRONG_ACCOUNT),
        (4, world.node.address, WRONG_ACCOUNT),
        (5, world.new_mint(), WRONG_TOKEN),
        (6, world.program, WRONG_PROGRAM),
    ]:
        world.refuses([world.swapped(refund, index, account)], world.node, code=code)


def test_an_empty_second_vault_cannot_bury_the_real_one(world: Any) -> None:
    """Anyone can make token accounts that the escrow's address owns."""
    address, decoy = world.create(), Keypair()
    account = CreateAccountParams(
        from_pubkey=world.evil.keypair.pubkey(),
        to_pubkey=decoy.pubkey(),
        lamports=world.svm.minimum_balance_for_rent_exemption(165),
        space=165,
        owner=escrow_codec.TOKEN_PROGRAM,
    )
    opening = InitializeAccountParams(
        program_id=escrow_codec.TOKEN_PROGRAM,
        account=decoy.pubkey(),
        mint=Pubkey.from_string(world.mint),
        owner=Pubkey.from_string(address),
    )
    world.do([create_account(account), initialize_account(opening)], world.evil, Wallet(decoy))
    refund = world.refunding(address, world.node)[0]
    world.refuses([world.swapped(refund, 2, str(decoy.pubkey()))], world.node, code=WRONG_VAULT)


def test_a_fake_token_program_is_not_called(world: Any) -> None:
    creation = world.creation(world.terms())
    world.refuses([creation[0], world.swapped(creation[1], 7, world.program)], world.user, code=WRONG_PROGRAM)


def test_accounts_of_the_newer_token_program_are_no_tokens(world: Any) -> None:
    """Token-2022 shares the first 165 bytes of an account, and its extensions may hold a transfer back."""
    creation = world.creation(world.terms())
    vault = Pubkey.from_string(token_account_of(world.address(world.terms()), world.mint))
    world.do([creation[0]], world.user)
    newer = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
    for address, code in (
        (vault, WRONG_VAULT),
        (Pubkey.from_string(world.platform), WRONG_TOKEN),
        (Pubkey.from_string(world.mint), WRONG_TOKEN),
    ):
        true = world.svm.get_account(address)
        world.svm.set_account(address, Account(true.lamports, bytes(true.data), newer, False))
        world.refuses([creation[1]], world.user, code=code)
        world.svm.set_account(address, true)
    world.do([creation[1]], world.user)


def test_a_vault_of_somebody_else_is_refused(world: Any) -> None:
    creation = world.creation(world.terms())[1]
    evil_tokens = token_account_of(world.evil.address, world.mint)
    world.refuses([world.swapped(creation, 3, evil_tokens)], world.user, code=WRONG_VAULT)


def test_tokens_of_somebody_else_are_not_taken(world: Any) -> None:
    creation = world.creation(world.terms())
    evil_tokens = token_account_of(world.evil.address, world.mint)
    forged = world.swapped(creation[1], 4, evil_tokens)
    world.refuses([creation[0], forged], world.user, code=WRONG_ACCOUNT)


def freeze(world: Any, account: str) -> None:
    address = Pubkey.from_string(account)
    found = world.svm.get_account(address)
    data = bytearray(found.data)
    data[108] = 2
    world.svm.set_account(address, Account(found.lamports, bytes(data), found.owner, False))


def second_account(world: Any, owner: Wallet) -> str:
    key = Keypair()
    account = CreateAccountParams(
        from_pubkey=world.evil.keypair.pubkey(),
        to_pubkey=key.pubkey(),
        lamports=world.svm.minimum_balance_for_rent_exemption(165),
        space=165,
        owner=escrow_codec.TOKEN_PROGRAM,
    )
    opening = InitializeAccountParams(
        program_id=escrow_codec.TOKEN_PROGRAM,
        account=key.pubkey(),
        mint=Pubkey.from_string(world.mint),
        owner=owner.keypair.pubkey(),
    )
    world.do([create_account(account), initialize_account(opening)], world.evil, Wallet(key))
    return str(key.pubkey())


def balance(world: Any, account: str) -> int:
    data = world.svm.get_account(Pubkey.from_string(account)).data
    return int.from_bytes(bytes(data)[64:72], "little")


def test_a_frozen_account_of_the_node_locks_nobodys_money(world: Any) -> None:
    """Nor does a frozen one of the platform: what it cannot take is the node's."""
    address = world.create()
    freeze(world, token_account_of(world.payout.address, world.mint))
    freeze(world, world.platform)
    check, settle = world.settlement(address, world.voucher(address, world.amount, True))
    world.refuses([check, settle], world.evil, code=WRONG_TOKEN)
    other = second_account(world, world.payout)
    world.do([check, world.swapped(settle, 3, other)], world.evil)
    assert balance(world, other) == world.amount


def test_a_frozen_account_of_the_user_locks_nobodys_money(world: Any) -> None:
    address = world.create()
    freeze(world, token_account_of(world.user.address, world.mint))
    check, settle = world.settlement(address, world.voucher(address, 1_000, True), world.node)
    world.refuses([check, settle], world.node, code=WRONG_TOKEN)
    other = second_account(world, world.user)
    world.do([check, world.swapped(settle, 5, other)], world.node)
    assert balance(world, other) == world.amount - 1_000


# -- which escrow it is


def test_a_forged_state_account_is_refused(world: Any) -> None:
    address = world.create()
    state = world.svm.get_account(Pubkey.from_string(address))
    forged = Pubkey.new_unique()
    world.svm.set_account(
        forged, Account(state.lamports, bytes(state.data), world.evil.keypair.pubkey(), False)
    )
    refund = world.refunding(address, world.node)[0]
    world.refuses([world.swapped(refund, 1, str(forged))], world.node, code=NOT_OPEN)
    voucher = world.voucher(str(forged), 1_000)
    check = escrow_codec.verify_voucher(world.user.address, world.node.address, voucher)
    settle = world.settlement(address, voucher)[1]
    world.refuses([check, world.swapped(settle, 1, str(forged))], world.evil, code=NOT_OPEN)


def test_an_escrow_at_another_address_is_not_created(world: Any) -> None:
    terms = world.terms()
    other = world.address(world.terms(job_id="33" * 32))
    vault = escrow_codec.create_token_account(world.user.address, other, world.mint)
    creation = world.swapped(world.creation(terms)[1], 2, other)
    creation = world.swapped(creation, 3, token_account_of(other, world.mint))
    world.refuses([vault, creation], world.user, code=WRONG_ADDRESS)


def test_an_escrow_is_created_once(world: Any) -> None:
    terms = world.terms()
    address = world.create()
    world.refuses(world.creation(terms), world.user, code=NOT_OPEN)
    world.settle(address, world.amount)
    world.refuses(world.creation(terms), world.user, code=NOT_OPEN)


def test_a_finished_escrow_pays_nothing_more(world: Any) -> None:
    settled, refunded = world.create(), world.create(job_id="22" * 32)
    voucher = world.voucher(settled, world.amount)
    again = world.settlement(settled, voucher)
    refund = world.refunding(settled, world.node)
    world.do(again, world.evil)
    world.refuses(again, world.evil, code=NOT_OPEN)
    world.refuses(refund, world.node, code=NOT_OPEN)
    late = world.settlement(refunded, world.voucher(refunded, 1_000))
    world.do(world.refunding(refunded, world.node), world.node)
    world.refuses(late, world.evil, code=NOT_OPEN)
    world.refuses(world.requesting(refunded, world.user), world.user, code=NOT_OPEN)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount": 0}, WRONG_AMOUNT),
        ({"arbiter_cap": 8 * 10**9}, WRONG_AMOUNT),
        ({"deadline": 1_700_000_000}, WRONG_TIME),
        ({"deadline": 2**62}, WRONG_TIME),
        ({"claim_window_s": -1}, WRONG_TIME),
        ({"claim_window_s": 2**62}, WRONG_TIME),
        ({"amount": 2 * 10**12}, 1),
    ],
)
def test_terms_that_make_no_sense_are_refused(world: Any, changes: dict[str, int], code: int) -> None:
    terms = world.terms(**changes)
    result = world.send(world.creation(terms), world.user)
    assert f"Custom({code})" in str(result.err())


# -- vouchers


def test_a_voucher_of_another_signer_is_refused(world: Any) -> None:
    address = world.create()
    voucher = world.voucher(address, 1_000, signer=world.node)
    settle = world.settlement(address, voucher)[1]
    check = escrow_codec.verify_voucher(world.node.address, world.node.address, voucher)
    world.refuses([check, settle], world.node, code=NO_VOUCHER)


def test_a_forged_signature_does_not_pass_the_precompile(world: Any) -> None:
    address = world.create()
    good = world.voucher(address, 1_000)
    forged = Voucher(address, 2_000, False, good.signature)
    world.refuses(world.settlement(address, forged), world.node, code=PRECOMPILE_REFUSES)


def test_a_voucher_of_another_escrow_is_refused(world: Any) -> None:
    address, other = world.create(), world.create(job_id="22" * 32)
    check = world.settlement(other, world.voucher(other, 1_000))[0]
    settle = world.settlement(address, world.voucher(address, 1_000))[1]
    world.refuses([check, settle], world.node, code=NO_VOUCHER)


def test_a_voucher_for_another_node_is_refused(world: Any) -> None:
    address = world.create()
    voucher = world.voucher(address, 1_000, node=world.evil)
    check = escrow_codec.verify_voucher(world.user.address, world.evil.address, voucher)
    world.refuses([check, world.settlement(address, voucher)[1]], world.node, code=NO_VOUCHER)


def test_more_than_the_amount_is_refused(world: Any) -> None:
    address = world.create()
    world.refuses(
        world.settlement(address, world.voucher(address, world.amount + 1)), world.node, code=WRONG_AMOUNT
    )


def test_an_old_voucher_pays_nothing_again(world: Any) -> None:
    address = world.create()
    old, new = world.voucher(address, 1_000), world.voucher(address, 2_000)
    world.do(world.settlement(address, new), world.node)
    world.refuses(world.settlement(address, old), world.node, code=NOTHING_NEW)
    world.refuses(world.settlement(address, new), world.node, code=NOTHING_NEW)
    old_final = world.voucher(address, 1_000, True)
    world.refuses(world.settlement(address, old_final, world.node), world.node, code=NOTHING_NEW)


def test_two_settles_in_one_transaction_pay_once(world: Any) -> None:
    address = world.create()
    both = world.settlement(address, world.voucher(address, 1_000))
    world.refuses([*both, both[1]], world.node, code=NO_VOUCHER)
    world.refuses([*both, *both], world.node, code=NOTHING_NEW)
    assert world.tokens(address) == world.amount


def test_only_the_instruction_directly_before_counts(world: Any) -> None:
    address = world.create()
    check, settle = world.settlement(address, world.voucher(address, 1_000))
    between = escrow_codec.create_token_account(world.evil.address, world.evil.address, world.mint)
    world.refuses([check, between, settle], world.evil, code=NO_VOUCHER)
    world.refuses([settle, check], world.evil, code=NO_VOUCHER)
    world.refuses([settle], world.evil, code=NO_VOUCHER)


def test_the_same_bytes_for_another_program_are_no_proof(world: Any) -> None:
    """The system program's transfer takes any bytes after its own twelve."""
    address = world.create()
    check, settle = world.settlement(address, world.voucher(address, 1_000))
    me = world.evil.keypair.pubkey()
    carrier = transfer(TransferParams(from_pubkey=me, to_pubkey=me, lamports=1))
    padded = Instruction(
        carrier.program_id, bytes(carrier.data) + bytes(check.data)[12:], list(carrier.accounts)
    )
    world.refuses([padded, settle], world.evil, code=NO_VOUCHER)


def evil_check(world: Any, address: str, **header: int) -> Instruction:
    """A precompile call whose header verifies something else than where the voucher lies."""
    fake = world.voucher(address, world.amount, signer=world.evil)
    data = bytearray(escrow_codec.verify_voucher(world.user.address, world.node.address, fake).data)
    evil = bytes(world.evil.keypair.pubkey())
    fields = {
        "count": 1,
        "padding": 0,
        "signature_at": 48,
        "signature_in": 0xFFFF,
        "key_at": len(data),
        "key_in": 0xFFFF,
        "message_at": 112,
        "message_len": 89,
        "message_in": 0xFFFF,
    } | header
    struct.pack_into("<BBHHHHHHH", data, 0, *fields.values())
    return Instruction(escrow_codec.ED25519_PROGRAM, bytes(data) + evil, [])


def test_offsets_that_point_elsewhere_are_refused(world: Any) -> None:
    """The precompile accepts evil's signature; the user's key lies where a careless program looks."""
    address = world.create()
    settle = world.settlement(address, world.voucher(address, 1_000))[1]
    world.refuses([evil_check(world, address), settle], world.evil, code=NO_VOUCHER)


def test_parts_taken_from_another_instruction_are_refused(world: Any) -> None:
    address = world.create()
    settle = world.settlement(address, world.voucher(address, 1_000))[1]
    fake = world.voucher(address, world.amount, signer=world.evil)
    honest = escrow_codec.verify_voucher(world.evil.address, world.node.address, fake)
    data = bytearray(escrow_codec.verify_voucher(world.user.address, world.node.address, fake).data)
    struct.pack_into("<BBHHHHHHH", data, 0, 1, 0, 48, 0, 16, 0, 112, 89, 0)
    borrowed = Instruction(escrow_codec.ED25519_PROGRAM, bytes(data), [])
    world.refuses([honest, borrowed, settle], world.evil, code=NO_VOUCHER)


def test_a_precompile_call_with_no_or_several_signatures_is_refused(world: Any) -> None:
    address = world.create()
    check, settle = world.settlement(address, world.voucher(address, world.amount))
    none = Instruction(check.program_id, bytes(2), [])
    world.refuses([none, settle], world.evil, code=NO_VOUCHER)
    entry = bytes(check.data[2:16])
    several = bytes([2, 0]) + entry + entry
    shifted = bytearray(several + bytes(check.data[16:]))
    for at in (2, 16):
        struct.pack_into("<HHHHHHH", shifted, at, 62, 0xFFFF, 30, 0xFFFF, 126, 89, 0xFFFF)
    world.refuses([Instruction(check.program_id, bytes(shifted), []), settle], world.evil, code=NO_VOUCHER)
    assert world.tokens(address) == world.amount


def test_a_forged_instructions_sysvar_is_refused(world: Any) -> None:
    address = world.create()
    check, settle = world.settlement(address, world.voucher(address, world.amount))
    data = bytes(check.data)
    listing = struct.pack("<HHH", 2, 6, 6) + struct.pack("<H", 0) + bytes(check.program_id)
    listing += struct.pack("<H", len(data)) + data + struct.pack("<H", 1)
    forged = Pubkey.new_unique()
    owner = Pubkey.from_string("Sysvar1111111111111111111111111111111111111")
    world.svm.set_account(forged, Account(10**9, listing, owner, False))
    world.refuses([world.swapped(settle, 9, str(forged))], world.evil, code=NO_VOUCHER)


def test_a_flag_that_is_neither_true_nor_false_is_refused(world: Any) -> None:
    address = world.create()
    good = world.settlement(address, world.voucher(address, 1_000))
    data = bytearray(good[0].data)
    data[-1] = 2
    data[48:112] = world.user.sign(bytes(data[112:]))
    world.refuses([Instruction(good[0].program_id, bytes(data), []), good[1]], world.evil, code=NO_VOUCHER)


def test_the_user_cannot_cut_the_node_off_with_a_final_voucher_of_nothing(world: Any) -> None:
    address = world.create()
    held_by_node = world.voucher(address, 3_000)
    world.settle(address, 0, final=True, presenter=world.user)
    assert world.escrow(address).status is EscrowStatus.OPEN
    world.do(world.settlement(address, held_by_node), world.node)
    assert world.tokens(world.payout) == 2_700


def test_instructions_of_the_wrong_form_are_refused(world: Any) -> None:
    address = world.create()
    program = Pubkey.from_string(world.program)
    refund = world.refunding(address, world.node)[0]
    for data in (b"", b"\x09", b"\x04\x00"):
        world.refuses([Instruction(program, data, list(refund.accounts))], world.node, code=101)
    world.refuses([Instruction(program, b"\x04", list(refund.accounts)[:-1])], world.node, code=102)
    accounts = list(refund.accounts) * 2
    world.refuses([Instruction(program, b"\x04", accounts)], world.node, code=102)
