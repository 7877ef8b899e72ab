"""What a request asks for: the paths of a gateway, the model that is meant. Pure.

Of a body only its "model" is looked at, and it is written again only where an endpoint calls its model
by another name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

import msgspec

from backend.serving.asked import ASKED_FIELDS, Asked, passed_on
from backend.serving.http import (
    OCTETS,
    HttpError,
    Reply,
    cyxwiz_error,
    decode_json,
    invalid,
    open_inference_error,
    openai_error,
)
from backend.serving.remote_paths import why_refused
from backend.serving.route_table import RouteTable

MODEL_FIELD = b"x-model"
_CONTENT_TYPE = re.compile(rb"[ -~]{0,256}")
_BINARY = (OCTETS, b"application/x-npy", b"application/vnd.safetensors", b"text/csv", b"text/plain")


class Action(Enum):
    """Who answers: the gateway itself, or the model's endpoints."""

    HEALTH = auto()
    METRICS = auto()
    DOCUMENT = auto()
    PAGE = auto()
    ABOUT = auto()
    LIVE = auto()
    READY = auto()
    MODEL_READY = auto()
    INDEX = auto()
    MODELS = auto()
    LOAD = auto()
    UNLOAD = auto()
    FORWARD = auto()
    """To an endpoint of the model."""


class Names(Enum):
    """Where a request names its model."""

    PATH = auto()
    BODY = auto()
    """It must."""
    BODY_OR_FIELD = auto()
    FIELD = auto()


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    summary: str
    action: Action
    scope: str | None = "predict"
    """What a key must be for; None for everybody."""
    refuse: Callable[[HttpError], Reply] = cyxwiz_error
    names: Names = Names.PATH


def _own() -> tuple[Route, ...]:
    page = (
        ("/", "A page to try models by hand"),
        ("/page.css", "Its looks"),
        ("/page.js", "Its program"),
    )
    return (
        Route("GET", "/health", "Whether the gateway and its models answer", Action.HEALTH, None),
        Route("GET", "/metrics", "Counts for Prometheus", Action.METRICS, "metrics"),
        Route("GET", "/openapi.json", "This document", Action.DOCUMENT, None),
        *(Route("GET", path, summary, Action.PAGE, None) for path, summary in page),
        Route("GET", "/v1/model", "What a model takes and gives", Action.FORWARD, names=Names.FIELD),
        Route("POST", "/v1/predict", "Outputs of a model", Action.FORWARD, names=Names.BODY_OR_FIELD),
    )


def _open_inference() -> tuple[Route, ...]:
    error = open_inference_error
    repository = "/v2/repository/models/{model}"
    of_model = [
        route
        for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for route in (
            Route("POST", f"{base}/infer", "Infer, in JSON or binary", Action.FORWARD, refuse=error),
            Route("GET", base, "Inputs and outputs of a model", Action.FORWARD, refuse=error),
            Route("GET", f"{base}/ready", "Whether a model answers", Action.MODEL_READY, refuse=error),
        )
    ]
    return (
        Route("GET", "/v2", "The server and its extensions", Action.ABOUT, None, error),
        Route("GET", "/v2/health/live", "Whether the gateway runs", Action.LIVE, None, error),
        Route("GET", "/v2/health/ready", "Whether every model answers", Action.READY, None, error),
        *of_model,
        Route("POST", "/v2/repository/index", "The models and their states", Action.INDEX, refuse=error),
        Route("POST", f"{repository}/load", "Load a model again", Action.LOAD, "manage", error),
        Route("POST", f"{repository}/unload", "Give a model's memory back", Action.UNLOAD, "manage", error),
    )


def _openai() -> tuple[Route, ...]:
    error = openai_error
    texts = (
        ("/v1/chat/completions", "Go on with a conversation"),
        ("/v1/completions", "Go on with a text"),
        ("/v1/embeddings", "Texts as vectors"),
    )
    return (
        Route("GET", "/v1/models", "The models here", Action.MODELS, refuse=error),
        Route("GET", "/v1/models/{model}", "One of them", Action.FORWARD, refuse=error),
        *(
            Route("POST", path, summary, Action.FORWARD, refuse=error, names=Names.BODY)
            for path, summary in texts
        ),
    )


ROUTES = (*_own(), *_open_inference(), *_openai())
TABLE = RouteTable(ROUTES)


class _Named(msgspec.Struct):
    model: str | None = None


_NAMED = msgspec.json.Decoder(_Named)
_PARTS = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that is for a model's endpoints. ``model`` None: whichever is the first."""

    asked: Asked
    model: str | None
    names: Names
    name_is_in_body: bool = False

    def for_name(self, name: str) -> Asked:
        """The same request to an endpoint that calls the model ``name``. Raises HttpError 400."""
        asked = self.asked
        if self.names is Names.PATH:
            return asked if name == self.model else replace(asked, path=_renamed(asked.path, name))
        fields = tuple(field for field in asked.headers if field[0] != MODEL_FIELD)
        asked = replace(asked, headers=(*fields, (MODEL_FIELD, name.encode())))
        if not self.name_is_in_body or name == self.model:
            return asked
        parts = decode_json(asked.body, _PARTS)
        parts["model"] = msgspec.Raw(msgspec.json.encode(name))
        return replace(asked, body=msgspec.json.encode(parts))


def read_wanted(
    route: Route, method: str, path: str, parameters: dict[str, str], headers: dict[bytes, bytes], body: bytes
) -> Wanted:
    """Raises HttpError 400 for a body that is no JSON where it must be, and for what no endpoint would take.

    An endpoint that drops such a request would count as lost, for everybody.
    """
    kind = headers.get(b"content-type", b"")
    if not _CONTENT_TYPE.fullmatch(kind):
        raise invalid(f"content type of {len(kind)} bytes, allowed are 256 that can be printed")
    if problem := why_refused(method, path):
        raise invalid(problem)
    asked = Asked(method, path, kind.decode("latin-1"), body, passed_on(tuple(headers.items()), ASKED_FIELDS))
    given = headers.get(MODEL_FIELD)
    field = None if given is None else given.decode("latin-1")
    if route.names is Names.PATH:
        return Wanted(asked, parameters["model"], route.names)
    if route.names is Names.FIELD or (route.names is Names.BODY_OR_FIELD and not _is_json(kind)):
        return Wanted(asked, field, route.names)
    named = decode_json(body, _NAMED).model
    if named is None and route.names is Names.BODY:
        raise invalid('the body has no "model"')
    return Wanted(asked, named or field, route.names, named is not None)


def _is_json(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind not in _BINARY and not kind.startswith(b"image/")


def _renamed(path: str, name: str) -> str:
    """The model's name is the part after ``models``, in every path that has one."""
    before, word, after = path.partition("/models/")
    _, slash, rest = after.partition("/")
    return f"{before}{word}{name}{slash}{rest}"
