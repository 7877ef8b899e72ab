"""Every error that p2p raises.

P2PError
├── LocalProtocolError        our side broke the protocol or passed a bad argument
├── RemoteProtocolError       the other side sent what the protocol does not allow
│   ├── FrameTooLargeError
│   └── MessageInvalidError
├── ConnectionFailedError     nobody there, or the wrong one
├── StreamResetError          cut off; what was received so far proves nothing
├── StreamClosedError         ended cleanly, but before what was expected
├── DeadlineError             no answer in time
├── RemoteFailureError        the other side answered that it refuses or failed
├── TransferError             a source lied about a file, or it may not or does not come here
│   └── SourceRefusedError    it does not have the file, or does not give it to us
├── TokenRefusedError         an access token that does not hold here
├── RecordRefusedError        a signed record that does not hold
├── KeystoreError             the key file is missing, unsafe or locked
├── DataDirLockedError        another process holds the data directory
├── PortInUseError            another process holds the port
├── ControlUnavailableError   no program listens on this control socket
└── ChainError                see p2p.chain.errors
"""

from __future__ import annotations


class P2PError(Exception):
    """Base of all errors of this package."""


class LocalProtocolError(P2PError):
    """This side asked for something the protocol does not allow."""


class RemoteProtocolError(P2PError):
    """The other side sent something the protocol does not allow."""


class FrameTooLargeError(RemoteProtocolError):
    """A frame announces more bytes than its protocol allows."""


class MessageInvalidError(RemoteProtocolError):
    """A message does not decode to a type that its protocol knows."""


class ConnectionFailedError(P2PError):
    """No connection to the peer could be made."""


class StreamResetError(P2PError):
    """The stream was cut. Nothing may be inferred from what arrived before."""


class StreamClosedError(P2PError):
    """The stream ended in the middle of what was expected."""


class DeadlineError(P2PError):
    """The other side did not answer within the deadline."""


class RemoteFailureError(P2PError):
    """The other side refused or failed; ``code`` is one of ``p2p.protocols.FAILURE_CODES``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class TransferError(P2PError):
    """A source lied about a file, or the file is larger than what is allowed here."""


class SourceRefusedError(TransferError):
    """The source does not have the file, or does not give it to us; it did not lie."""


class TokenRefusedError(P2PError):
    """An access token that does not hold for this connection, job or moment."""


class RecordRefusedError(P2PError):
    """A signed peer record that is forged, expired or about somebody else."""


class KeystoreError(P2PError):
    """The key file is missing, readable by others, damaged, or needs a passphrase."""


class DataDirLockedError(P2PError):
    """Another process works in this data directory."""


class PortInUseError(P2PError):
    """Another process listens at this address."""


class ControlUnavailableError(P2PError):
    """No program listens on this control socket."""


class ChainError(P2PError):
    """Base of the errors of ``p2p.chain``."""


LOST = (ConnectionFailedError, DeadlineError, StreamResetError, StreamClosedError)
"""The network's fault, or a restart's: worth another try."""
