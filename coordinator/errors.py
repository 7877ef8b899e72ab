"""Every error that the coordinator raises.

CoordinatorError
├── IllegalTransitionError    an event that does not fit the state that a job or payment is in
│   └── StaleLeaseError       a late message of a lease that is over
├── StoreError                the database cannot be used
├── ChainProcessError         the embedded chain does not start
└── ConfigError               flags, environment or file that make no sense
"""

from __future__ import annotations


class CoordinatorError(Exception):
    """Base of all errors of this package."""


class IllegalTransitionError(CoordinatorError):
    """The event is not possible in this state; nothing was changed."""


class StaleLeaseError(IllegalTransitionError):
    """The lease that the event names is not the job's present one."""


class StoreError(CoordinatorError):
    """The database is damaged, from a newer version, or cannot be written."""


class ChainProcessError(CoordinatorError):
    """The embedded chain did not start, or ended too often."""


class ConfigError(CoordinatorError):
    """A setting that cannot be used; the text names it and what is allowed."""
