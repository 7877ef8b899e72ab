"""What the escrow program pays, in a real virtual machine under mainnet's features."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from spl.token.instructions import close_account
from spl.token.models import CloseAccountParams

from coordinator.chain.program import build
from p2p.chain import escrow_codec
from p2p.chain.escrow_codec import EscrowStatus


def test_the_committed_program_is_what_the_source_compiles_to() -> None:
    if build.compiler() is None:
        pytest.skip(f"{build.COMPILER} is not installed")
    assert build.build() == (build.HERE / "escrow.so").read_bytes()


def test_create_fixes_every_term_and_locks_the_amount(world: Any) -> None:
    before = world.tokens(world.user)
    terms = world.terms(arbiter_cap=5)
    world.do(world.creation(terms), world.user)
    escrow = world.escrow(world.address(terms))
    for field in ("user", "node", "payout", "arbiter", "mint", "platform", "job_id"):
        assert getattr(escrow, field) == getattr(terms, field)
    for field in ("amount", "arbiter_cap", "claim_window_s", "deadline"):
        assert getattr(escrow, field) == getattr(terms, field)
    assert (escrow.payer, escrow.earned, escrow.refund_requested_at) == (terms.user, 0, 0)
    assert escrow.status is EscrowStatus.OPEN
    assert world.tokens(world.address(terms)) == world.amount
    assert world.tokens(world.user) == before - world.amount


def test_a_whole_success_is_one_settle_that_pays_ninety_to_ten(world: Any) -> None:
    address = world.create()
    result = world.settle(address, world.amount, final=True)
    assert world.tokens(world.owner) == world.amount // 10
    assert world.tokens(world.payout) == world.amount - world.amount // 10
    assert world.escrow(address).status is EscrowStatus.SETTLED
    assert world.svm.get_balance(world.node.keypair.pubkey()) == 10**10
    assert result.compute_units_consumed() <= 8000


def test_the_platform_never_gets_more_or_less_than_a_tenth_over_many_settles(world: Any) -> None:
    randomness = random.Random(5)
    address = world.create(amount=1003)
    steps = sorted(randomness.sample(range(1, 1003), 25))
    for earned in steps:
        world.settle(address, earned)
        assert world.tokens(world.owner) == earned // 10
        assert world.tokens(world.payout) == earned - earned // 10
        assert world.tokens(address) == 1003 - earned
    world.settle(address, 1003)
    assert (world.tokens(world.owner), world.tokens(world.payout)) == (100, 903)


def test_a_final_voucher_of_the_node_returns_the_rest_and_the_vaults_rent(world: Any) -> None:
    before, address = world.tokens(world.user), world.create()
    lamports = world.svm.get_balance(world.user.keypair.pubkey())
    world.settle(address, 1_000, final=True, presenter=world.node)
    assert world.tokens(world.user) == before - 1_000
    assert world.tokens(world.payout) == 900
    assert world.svm.get_balance(world.user.keypair.pubkey()) > lamports
    assert world.escrow(address).status is EscrowStatus.SETTLED


def test_a_final_voucher_from_anyone_else_leaves_the_node_its_claim_window(world: Any) -> None:
    address = world.create()
    world.settle(address, 0, final=True, presenter=world.user)
    assert world.escrow(address).refund_requested_at == world.start
    world.refuses(world.refunding(address, world.user), world.user, code=108)
    world.settle(address, 5_000)
    world.set_time(world.start + world.window)
    world.do(world.refunding(address, world.user), world.user)
    assert world.tokens(world.payout) == 4_500


def test_tokens_that_somebody_sent_to_the_vault_go_to_the_user(world: Any) -> None:
    before, address = world.tokens(world.user), world.create()
    world.give(address, 77)
    world.settle(address, world.amount, final=True)
    assert world.tokens(world.user) == before - world.amount + 77


def test_the_node_may_refund_at_once(world: Any) -> None:
    before, address = world.tokens(world.user), world.create()
    world.do(world.refunding(address, world.node), world.node)
    assert world.tokens(world.user) == before
    assert world.escrow(address).status is EscrowStatus.REFUNDED


@pytest.mark.parametrize("who", ["user", "arbiter"])
def test_a_requested_refund_waits_for_the_claim_window(world: Any, who: str) -> None:
    before, address = world.tokens(world.user), world.create()
    signer = getattr(world, who)
    world.do(world.requesting(address, signer), signer)
    world.set_time(world.start + world.window - 1)
    world.refuses(world.refunding(address, signer), signer, code=108)
    world.settle(address, 2_000)
    world.set_time(world.start + world.window)
    world.do(world.refunding(address, world.evil), world.evil)
    assert world.tokens(world.user) == before - 2_000


def test_asking_again_does_not_move_the_claim_window(world: Any) -> None:
    address = world.create()
    world.do(world.requesting(address, world.user), world.user)
    world.set_time(world.start + 30)
    world.do(world.requesting(address, world.arbiter), world.arbiter)
    assert world.escrow(address).refund_requested_at == world.start


def test_after_the_deadline_anyone_may_refund_to_the_user(world: Any) -> None:
    before, address = world.tokens(world.user), world.create()
    world.set_time(world.start + 3600)
    world.do(world.refunding(address, world.evil), world.evil)
    assert world.tokens(world.user) == before


def test_the_arbiter_alone_pays_up_to_its_cap_and_never_returns_the_rest(world: Any) -> None:
    address = world.create(arbiter_cap=5_000)
    escrow = world.escrow(address)
    too_much = escrow_codec.settle_by_arbiter(world.program, address, escrow, 5_001)
    world.refuses([too_much], world.arbiter, code=109)
    world.do([escrow_codec.settle_by_arbiter(world.program, address, escrow, 5_000)], world.arbiter)
    assert (world.tokens(world.payout), world.tokens(world.owner)) == (4_500, 500)
    assert world.escrow(address).status is EscrowStatus.OPEN


def test_a_closed_platform_account_does_not_hold_up_the_node(world: Any) -> None:
    address = world.create()
    owner = world.owner.keypair.pubkey()
    parameters = CloseAccountParams(
        program_id=escrow_codec.TOKEN_PROGRAM,
        account=Pubkey.from_string(world.platform),
        dest=owner,
        owner=owner,
    )
    world.do([close_account(parameters)], world.owner)
    world.settle(address, world.amount, final=True)
    assert world.tokens(world.payout) == world.amount


def test_close_returns_the_rent_after_the_deadline_only(world: Any) -> None:
    terms = world.terms()
    address = world.create()
    closing = [escrow_codec.close(world.program, address, world.escrow(address))]
    world.refuses(closing, world.evil, code=104)
    world.settle(address, world.amount)
    world.refuses(closing, world.evil, code=108)
    world.set_time(terms.deadline)
    lamports = world.svm.get_balance(world.user.keypair.pubkey())
    world.do(closing, world.evil)
    assert world.svm.get_balance(world.user.keypair.pubkey()) > lamports
    world.refuses(world.creation(terms), world.user, code=115)


def test_lamports_at_the_address_do_not_prevent_creation(world: Any) -> None:
    address = Pubkey.from_string(world.address(world.terms()))
    gift = TransferParams(from_pubkey=world.evil.keypair.pubkey(), to_pubkey=address, lamports=1_000_000)
    world.do([transfer(gift)], world.evil)
    world.open_token_account(str(address))
    world.give(str(address), 1)
    assert world.escrow(world.create()).status is EscrowStatus.OPEN


def test_the_interface_description_is_what_the_codec_writes(world: Any) -> None:
    interface = json.loads((build.HERE / "idl.json").read_bytes())
    address = world.create(arbiter_cap=5)
    escrow, program = world.escrow(address), world.program
    written = {
        "create": world.creation(world.terms())[1],
        "settle": world.settlement(address, world.voucher(address, 1))[1],
        "settleByArbiter": escrow_codec.settle_by_arbiter(program, address, escrow, 1),
        "requestRefund": world.requesting(address, world.user)[0],
        "refund": world.refunding(address, world.user)[0],
        "close": escrow_codec.close(program, address, escrow),
    }
    assert {item["name"] for item in interface["instructions"]} == set(written)
    for item in interface["instructions"]:
        instruction = written[item["name"]]
        assert instruction.data[0] == item["discriminator"][0]
        described = [(a.get("signer", False), a.get("writable", False)) for a in item["accounts"]]
        assert [(a.is_signer, a.is_writable) for a in instruction.accounts] == described
    assert {e["code"]: e["msg"] for e in interface["errors"]} == escrow_codec.PROGRAM_ERRORS
