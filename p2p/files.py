"""Gives content-addressed files to others. Decides nothing about who may have what; ``authorize`` does.

``fetch``, which takes them, is in ``p2p.download``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from p2p.download import fetch
from p2p.errors import RemoteFailureError, TokenRefusedError
from p2p.grants import GrantBook, open_grant
from p2p.identifiers import PeerId
from p2p.network import Network
from p2p.protocols import Done
from p2p.protocols.transfer import (
    LIMITS,
    MAX_PART_BYTES,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    FileSource,
    GetManifest,
    GetRange,
    ManifestPart,
    Range,
    ShowGrant,
    TransferAnswer,
    TransferCall,
)
from p2p.router import serve_calls
from p2p.store import FileStore

__all__ = ["FileSource", "FileStore", "fetch", "serve_transfers"]

Authorize = Callable[[PeerId, str], bool]
"""Whether a peer may have the file of a manifest hash."""

_CALLS_IN_FLIGHT = 2
"""Of one stream: one is read from disk while another is sent. More would cost memory only."""


def serve_transfers(
    network: Network, store: FileStore, authorize: Authorize, now: Callable[[], float] = time.time
) -> None:
    """Gives the files of ``store`` to whom ``authorize`` allows them, and to whom those grant them."""
    service = _Service(store, authorize, now)
    serve_calls(
        network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, service.answer, max_in_flight=_CALLS_IN_FLIGHT
    )


class _Service:
    def __init__(self, store: FileStore, authorize: Authorize, now: Callable[[], float]) -> None:
        self._store = store
        self._authorize = authorize
        self._now = now
        self._grants = GrantBook()

    async def answer(
        self, caller: PeerId, call: TransferCall, body: bytes
    ) -> TransferAnswer | tuple[TransferAnswer, bytes]:
        if isinstance(call, ShowGrant):
            return self._take_grant(caller, call)
        # Before anything else: whoever may not have a file learns not even whether it is here.
        if not (self._authorize(caller, call.manifest) or self._is_granted(caller, call.manifest)):
            raise RemoteFailureError("unauthorized", f"{caller} may not fetch {call.manifest}")
        if isinstance(call, GetManifest):
            return await self._manifest_part(call)
        return await self._range(call)

    def _take_grant(self, caller: PeerId, call: ShowGrant) -> Done:
        try:
            grant = open_grant(call.grant, caller, self._now())
        except TokenRefusedError as error:
            raise RemoteFailureError("unauthorized", str(error)) from error
        held = [name for name in grant.manifests if self._authorize(PeerId(grant.issuer), name)]
        if not held:
            text = f"{grant.issuer} may not fetch {', '.join(grant.manifests)}"
            raise RemoteFailureError("unauthorized", text)
        for manifest in held:
            self._grants.keep(grant, manifest)
        return Done()

    def _is_granted(self, caller: PeerId, manifest: str) -> bool:
        issuer = self._grants.issuer_for(caller, manifest, self._now())
        return issuer is not None and self._authorize(issuer, manifest)

    async def _manifest_part(self, call: GetManifest) -> tuple[ManifestPart, bytes]:
        found = await self._store.read_manifest(call.manifest, call.offset, MAX_PART_BYTES)
        if found is None:
            raise _unknown(call)
        size, part = found
        if call.offset >= size:
            raise RemoteFailureError("invalid", f"offset {call.offset} in a manifest of {size} bytes")
        await self._store.rates.upload.wait(len(part))
        self._store.bytes_sent += len(part)
        return ManifestPart(size), part

    async def _range(self, call: GetRange) -> tuple[Range, bytes]:
        try:
            # What is not here must not take from what others may send.
            if self._store.check_range(call.manifest, call.offset, call.length):
                await self._store.rates.upload.wait(call.length)
            data = await self._store.read_range(call.manifest, call.offset, call.length)
        except IndexError as error:
            raise RemoteFailureError("invalid", f"asked for {error}") from error
        if data is None:
            raise _unknown(call)
        self._store.bytes_sent += len(data)
        return Range(call.offset), data


def _unknown(call: GetManifest | GetRange) -> RemoteFailureError:
    return RemoteFailureError("not_found", f"no file with manifest {call.manifest}")
