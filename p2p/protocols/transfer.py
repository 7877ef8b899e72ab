"""/cyxwiz/transfer/1: content-addressed files, pulled by who needs them, one stream per file."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p.codec import Codec, Message
from p2p.framing import FrameLimits
from p2p.identifiers import Count, Hash
from p2p.protocols import Failure, Request, Response

PROTOCOL_ID = "/cyxwiz/transfer/1"
MAX_FILE_BYTES = 1 << 40
MAX_PART_BYTES = 1 << 20
"""The most of a manifest or chunk that one answer carries."""
LIMITS = FrameLimits(message_bytes=64 << 10, body_bytes=MAX_PART_BYTES)


class GetManifest(Message, frozen=True):
    """Asks by the manifest's hash. The answer's body is one part of it."""

    manifest: Hash
    offset: Count = 0


class GetChunk(Message, frozen=True):
    """The answer's body is ``length`` bytes of one chunk, from ``offset`` within it."""

    manifest: Hash
    index: Count
    offset: Count
    length: Annotated[int, Meta(ge=1, le=MAX_PART_BYTES)]


class ManifestPart(Message, frozen=True):
    total_bytes: Count


class Chunk(Message, frozen=True):
    index: Count
    offset: Count


TransferCall = GetManifest | GetChunk
TransferAnswer = ManifestPart | Chunk | Failure
REQUESTS: Codec[Request[TransferCall]] = Codec(Request[TransferCall])
RESPONSES: Codec[Response[TransferAnswer]] = Codec(Response[TransferAnswer])
