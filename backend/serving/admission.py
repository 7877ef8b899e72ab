"""Who may ask for what: Host, Origin, keys. Pure; the first thing that sees a request.

A web page that makes its name point here (DNS rebinding) sends its own name as Host, and a page of
another site sends its Origin; both are refused, so no site that the user visits reaches a model.
"""

from __future__ import annotations

import ipaddress

from backend.serving.http import HttpError, retry_after
from backend.serving.keys import Gatekeeper
from backend.serving.messages import ApiKey

_MAX_HOST_BYTES = 300


class Admission:
    """``hosts``: names besides localhost and addresses. ``needs_key``: also on loopback."""

    def __init__(self, hosts: tuple[str, ...], gatekeeper: Gatekeeper, needs_key: bool) -> None:
        self._hosts = frozenset({"localhost", *(host.lower().rstrip(".") for host in hosts)})
        self._gatekeeper = gatekeeper
        self.needs_key = needs_key
        self._known_hosts: set[bytes] = set()

    def check_host(self, headers: dict[bytes, bytes]) -> None:
        """Raises HttpError 421 for a Host that is not this server, 403 for another site's page."""
        host = headers.get(b"host", b"")
        if host not in self._known_hosts:
            if not self._is_ours(host):
                name = host[:80].decode(errors="replace")
                raise HttpError(421, "wrong_host", f"Host {name!r} is not this server: see --allow-host")
            if len(self._known_hosts) < 64:
                self._known_hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != host:
            raise HttpError(403, "other_origin", "requests of other sites' pages are refused")

    def check_key(self, headers: dict[bytes, bytes], scope: str, now: float) -> ApiKey | None:
        """Raises HttpError 401 without a good key where one is needed, 403 and 429 for its limits."""
        if not self.needs_key:
            return None
        key = self._gatekeeper.find(_presented(headers))
        if key is None:
            asks = ((b"www-authenticate", b"Bearer"),)
            raise HttpError(401, "unauthorized", "a valid API key is needed: Authorization: Bearer KEY", asks)
        if scope not in key.scopes:
            raise HttpError(403, "forbidden", f"this key is for {', '.join(key.scopes)}, not for {scope}")
        wait_s = self._gatekeeper.wait_s(key, now)
        if wait_s > 0:
            text = f"this key may ask {key.per_minute} times a minute"
            raise HttpError(429, "too_many_requests", text, retry_after(wait_s))
        return key

    def still_admits(self, key: ApiKey | None) -> bool:
        """Of a key that was good when its request came; None: none was needed."""
        return key is None or self._gatekeeper.holds(key)

    def _is_ours(self, host: bytes) -> bool:
        if not 0 < len(host) <= _MAX_HOST_BYTES:
            return False
        name = _without_port(host.decode("ascii", errors="replace"))
        if name.lower().rstrip(".") in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _presented(headers: dict[bytes, bytes]) -> str:
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    found = credentials if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
    return found.strip().decode("ascii", errors="replace")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
