"""/cyxwiz/transfer/1: content-addressed files, pulled by who needs them, one stream per file and source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p.codec import Codec, Message, Part
from p2p.framing import FrameLimits
from p2p.identifiers import Address, Count, Hash, PeerIdField, Seconds, Signature64
from p2p.protocols import Done, Failure, Request, Response

PROTOCOL_ID = "/cyxwiz/transfer/1"
MAX_FILE_BYTES = 1 << 40
MAX_CHUNK_BYTES = (4 << 20) + (4 << 10)
MAX_PART_BYTES = MAX_CHUNK_BYTES
"""The most of a manifest or file that one answer carries: at least a chunk."""
MAX_SOURCES = 8
LIMITS = FrameLimits(message_bytes=64 << 10, body_bytes=MAX_PART_BYTES)


class FileGrant(Part, frozen=True):
    """``issuer`` says that ``subject`` may have the files of ``manifests`` until ``expires_at``."""

    issuer: PeerIdField
    subject: PeerIdField
    manifests: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=4)]
    expires_at: Seconds


class SignedGrant(Part, frozen=True):
    """A FileGrant as its issuer signed it: see ``p2p.grants``."""

    payload: Annotated[bytes, Meta(max_length=1024)]
    signature: Signature64


class FileSource(Part, frozen=True):
    """A peer that should have a file, and what to show it."""

    peer_id: PeerIdField
    addresses: Annotated[tuple[Address, ...], Meta(max_length=32)] = ()
    grant: SignedGrant | None = None


class GetManifest(Message, frozen=True):
    """Asks by the manifest's hash. The answer's body is one part of it."""

    manifest: Hash
    offset: Count = 0


class GetRange(Message, frozen=True):
    """The answer's body is ``length`` bytes of the file, from ``offset``."""

    manifest: Hash
    offset: Count
    length: Annotated[int, Meta(ge=1, le=MAX_PART_BYTES)]


class ShowGrant(Message, frozen=True):
    """Another's word that the caller may have a file. Answered by Done."""

    grant: SignedGrant


class ManifestPart(Message, frozen=True):
    total_bytes: Count


class Range(Message, frozen=True):
    offset: Count


TransferCall = GetManifest | GetRange | ShowGrant
TransferAnswer = ManifestPart | Range | Done | Failure
REQUESTS: Codec[Request[TransferCall]] = Codec(Request[TransferCall])
RESPONSES: Codec[Response[TransferAnswer]] = Codec(Response[TransferAnswer])
