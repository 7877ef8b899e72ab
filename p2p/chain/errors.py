"""Every error of this package.

ChainError
├── ChainUnavailableError     no answer, or none that can be read; proves nothing about a transaction
├── ChainRefusedError         the RPC node answered with an error
├── ChainNotTrustedError     a program or mint that this wallet does not sign for
├── EscrowInvalidError        an account that is not an escrow of our program
├── PaymentRefusedError       proven: this payment did not happen and will not
├── PaymentPendingError       not known yet; the outbox goes on with it
├── PaymentConflictError      a key that already stands for another payment
├── JournalError              the outbox file is damaged or in use
└── WalletError               the wallet file is missing, unsafe, damaged or locked
"""

from __future__ import annotations

from p2p.errors import ChainError as ChainError


class ChainUnavailableError(ChainError):
    """The RPC node did not answer, or not in a form that can be read."""


class ChainRefusedError(ChainError):
    """The RPC node answered that it will not; ``code`` is its JSON-RPC code where it gave one."""


class ChainNotTrustedError(ChainError):
    """The coordinator names a chain, program or mint that was not agreed on."""


class EscrowInvalidError(ChainError):
    """The account's owner, size or tag is not that of an escrow."""


class PaymentRefusedError(ChainError):
    """The payment did not happen and no transaction that could make it happen is alive."""


class PaymentPendingError(ChainError):
    """Still unknown at the caller's deadline. It stays in the outbox and may yet happen."""


class PaymentConflictError(ChainError):
    """The same key was used for a different payment before."""


class JournalError(ChainError):
    """The outbox file cannot be used."""


class WalletError(ChainError):
    """The wallet file is missing, readable by others, damaged, or its passphrase is wrong."""
