"""Jobs, escrows and vouchers as tests need them."""

from __future__ import annotations

from solders.pubkey import Pubkey

from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus
from p2p.chain.wallet import Wallet
from p2p.jobs import DataSummary, FileRef, JobMetrics, JobSpec
from p2p.pricing import earned_after
from p2p.protocols.coordinator import LeaseRef, OfferJob
from p2p.protocols.job import StartJob
from p2p.vouchers import Voucher, voucher_bytes

USER = Wallet.from_seed(b"u" * 32)
NODE = Wallet.from_seed(b"n" * 32)
PAYOUT = Wallet.from_seed(b"p" * 32).address
ARBITER = Wallet.from_seed(b"a" * 32).address
MINT = Wallet.from_seed(b"m" * 32).address
PLATFORM = Wallet.from_seed(b"l" * 32).address
ESCROW = Wallet.from_seed(b"e" * 32).address
JOB_ID = "ab" * 32
ENGINE_ID = "12D3KooWEngineEngineEngine"
DATA = FileRef("d1" * 32, "d2" * 32, 5000)
AMOUNT = 1000
NOW = 1_800_000_000.0
METRICS = JobMetrics(10, 100, 0, 0.5)


def make_file(letter: str) -> FileRef:
    return FileRef(letter * 64, letter * 63 + "0", 100)


def make_offer(segments: int = 4, first_segment: int = 0, lease_id: str = "lease-1") -> OfferJob:
    data = DataSummary(DATA, 100, (1, 8, 8), "float32", 10)
    spec = JobSpec(JOB_ID, "c0" * 32, data, 10**9, USER.address, segments)
    return OfferJob(LeaseRef(lease_id, 3), spec, ENGINE_ID, 0, AMOUNT, first_segment)


def make_start() -> StartJob:
    return StartJob(ESCROW, int(NOW) + 86400, "5" * 88)


def make_voucher(
    done: int, segments: int = 4, *, final: bool = False, earned: int | None = None, signer: Wallet = USER
) -> Voucher:
    units = earned_after(AMOUNT, done, segments) if earned is None else earned
    message = voucher_bytes(
        bytes(Pubkey.from_string(ESCROW)), bytes(Pubkey.from_string(NODE.address)), units, final
    )
    return Voucher(ESCROW, units, final, signer.sign(message), done)


def make_account(**changes: object) -> EscrowAccount:
    fields: dict[str, object] = {
        "user": USER.address,
        "node": NODE.address,
        "payout": PAYOUT,
        "arbiter": ARBITER,
        "mint": MINT,
        "platform": PLATFORM,
        "payer": USER.address,
        "vault": Wallet.from_seed(b"v" * 32).address,
        "job_id": JOB_ID,
        "amount": AMOUNT,
        "earned": 0,
        "arbiter_cap": 0,
        "claim_window_s": 60,
        "deadline": int(NOW) + 86400,
        "refund_requested_at": 0,
        "status": EscrowStatus.OPEN,
        "bump": 255,
    }
    return EscrowAccount(**{**fields, **changes})  # type: ignore[arg-type]
