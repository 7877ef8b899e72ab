"""Every error that a session raises to its user.

SessionError (a P2PError)
├── JobRefusedError        this Engine will not submit or pay: budget, wallet, graph, data
├── JobUnknownError        no such job in this data directory
├── JobEndedError          the job is over and has not what was asked for
├── EvaluationFailedError  a model could not be held against the owner's private samples
├── ModelRefusedError      a checkpoint or model is not what was paid for
│   └── ModelSilentError   a deployment does not answer, whatever its peer says
└── SetupError             something that the command needs is missing: coordinator, wallet
"""

from __future__ import annotations

from p2p.errors import P2PError


class SessionError(P2PError):
    """Base of what a session tells its user."""


class JobRefusedError(SessionError):
    """This Engine will not go on: names what was found and what is allowed."""


class JobUnknownError(SessionError):
    """No job of that name in this data directory."""


class JobEndedError(SessionError):
    """The job is over, and not with what was asked for."""


class EvaluationFailedError(SessionError):
    """A model could not be held against samples here."""


class ModelRefusedError(SessionError):
    """A checkpoint or model that does not hold what it must."""


class ModelSilentError(ModelRefusedError):
    """A deployment that its peer claims to serve, and that does not answer: it may have lost it."""


class SetupError(SessionError):
    """Something that has to exist before the command does not."""
