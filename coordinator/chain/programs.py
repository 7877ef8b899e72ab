"""Programs of the chain run on a thread of their own.

The virtual machine compiles a program to machine code that keeps values in MMX registers and never
gives these back (no EMMS). They are the registers of the x87 unit as well, which libm (``math.fmod``,
``float % float``) and LAPACK still compute with: on the thread that ran a program, their next result
may be NaN. Each thread has registers of its own, so this one computes nothing else.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from solders.litesvm import LiteSVM
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import (
    FailedTransactionMetadata,
    SimulatedTransactionInfo,
    TransactionMetadata,
)

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="programs")


def send(
    machine: LiteSVM, transaction: VersionedTransaction
) -> TransactionMetadata | FailedTransactionMetadata:
    return _THREAD.submit(machine.send_transaction, transaction).result()


def simulate(
    machine: LiteSVM, transaction: VersionedTransaction
) -> SimulatedTransactionInfo | FailedTransactionMetadata:
    return _THREAD.submit(machine.simulate_transaction, transaction).result()
