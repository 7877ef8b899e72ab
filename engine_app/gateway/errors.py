"""What goes wrong between a gateway, its clients and its endpoints.

GatewayError
├── EndpointLostError    an endpoint cannot be reached, or went away before its answer was whole
├── EndpointBusyError    an endpoint has no room for a request, and has done nothing of it
└── ClientGoneError      the client left, or takes nothing of its answer
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of the errors of a gateway."""


class EndpointLostError(GatewayError):
    """The endpoint's fault, or the network's; the same request may succeed at another one."""


class EndpointBusyError(GatewayError):
    """The same request may find room at another endpoint, or later."""


class ClientGoneError(GatewayError):
    """Nobody is left to be answered."""
