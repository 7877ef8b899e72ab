"""What the endpoints speak of: a request read whole, its answer, and the ways to refuse. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from backend.serving.messages import ApiKey

JSON = b"application/json"
OCTETS = b"application/octet-stream"
Headers = tuple[tuple[bytes, bytes], ...]


class Call(msgspec.Struct, frozen=True, gc=False):
    """A request. ``body`` is whole and within its limit; header names are lower case."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    deadline: float
    """On the monotonic clock."""
    parameters: dict[str, str] = {}
    """From the path."""
    key: ApiKey | None = None

    @property
    def content_type(self) -> bytes:
        """Without its parameters."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


class Reply(msgspec.Struct, frozen=True, gc=False):
    body: bytes
    content_type: bytes = JSON
    status: int = 200
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer whose parts are sent as they come; closed early when the client leaves.

    ``first`` has been taken from ``chunks`` already: a generator that was never begun would not notice
    being closed, and what it holds would stay held.
    """

    first: bytes
    chunks: AsyncGenerator[bytes]
    content_type: bytes = b"text/event-stream"
    headers: Headers = ((b"cache-control", b"no-store"),)


Handler = Callable[[Call], Awaitable[Reply | Stream]]


class HttpError(Exception):
    """An answer other than 200. ``code`` is one word for programs, ``text`` a sentence for people."""

    def __init__(self, status: int, code: str, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.headers = headers


def retry_after(seconds: float) -> Headers:
    return ((b"retry-after", str(max(1, int(seconds + 0.999))).encode()),)


def too_many(text: str, wait_s: float) -> HttpError:
    return HttpError(429, "too_many_requests", text, retry_after(wait_s))


def busy(text: str, wait_s: float) -> HttpError:
    return HttpError(503, "busy", text, retry_after(wait_s))


def invalid(text: str) -> HttpError:
    return HttpError(400, "invalid", text)


_ONCE = frozenset({b"host", b"origin", b"authorization", b"x-api-key", b"content-type", b"content-encoding"})


def fields_of(headers: Collection[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Those of a request by name. Raises HttpError 400 where one that decides something is there twice."""
    found = dict(headers)
    if len(found) != len(headers):
        for name, count in Counter(name for name, _ in headers).items():
            if count > 1 and name in _ONCE:
                raise HttpError(400, "no_http", f"header {name.decode()} {count} times, allowed is once")
    return found


def check_encoding(headers: dict[bytes, bytes]) -> None:
    """Raises HttpError 415 for a body that is compressed: it would be taken for what it is not."""
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() not in (b"", b"identity"):
        told = encoding[:40].decode(errors="replace")
        raise HttpError(415, "encoding", f"content-encoding {told!r}, allowed is none")


_ENCODER = msgspec.json.Encoder()


def json_reply(value: Any, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(_ENCODER.encode(value), JSON, status, headers)


def decode_json(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Raises HttpError 400."""
    try:
        return decoder.decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is no such JSON: {error}") from error


# How each protocol words a refusal.


def cyxwiz_error(error: HttpError) -> Reply:
    value = {"error": {"code": error.code, "text": error.text}}
    return json_reply(value, error.status, error.headers)


def open_inference_error(error: HttpError) -> Reply:
    return json_reply({"error": error.text}, error.status, error.headers)


def openai_error(error: HttpError) -> Reply:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    value = {"error": {"message": error.text, "type": kind, "param": None, "code": error.code}}
    return json_reply(value, error.status, error.headers)


def wording_of(path: str) -> Callable[[HttpError], Reply]:
    """Of a refusal for which no route is known, as the client that asks for such a path understands it."""
    if path.startswith("/v2"):
        return open_inference_error
    if path.startswith("/v1/") and path not in ("/v1/predict", "/v1/model"):
        return openai_error
    return cyxwiz_error
