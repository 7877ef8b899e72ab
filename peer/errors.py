"""Every error that peer raises.

PeerError
├── ConfigError              a flag, variable or file that asks for what cannot be
├── DeviceError              a device that is not there or not free
├── IllegalTransitionError   an event that a job in this phase cannot have
├── OfferRefusedError        a job that this peer does not take
└── JobError                 a job that cannot go on; carries code and whether another peer may try
"""

from __future__ import annotations


class PeerError(Exception):
    """Base of all errors of this package."""


class ConfigError(PeerError):
    """A flag, an environment variable or a line of the config file asks for what cannot be."""


class DeviceError(PeerError):
    """A device that this machine does not have, or that a job holds."""


class IllegalTransitionError(PeerError):
    """An event that a job in its present phase cannot have."""


class OfferRefusedError(PeerError):
    """A job that this peer does not take; the text goes to the coordinator as the reason."""


class JobError(PeerError):
    """A job that cannot go on. ``retryable``: another peer might succeed."""

    def __init__(self, code: str, text: str, retryable: bool) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.retryable = retryable
