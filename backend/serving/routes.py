"""Every path that a model server answers, and what describes them: health, metrics, OpenAPI, the page."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from backend.serving.app import Route
from backend.serving.host import ModelHost
from backend.serving.http import Call, Handler, Reply, json_reply, open_inference_error, openai_error
from backend.serving.open_inference import InferBody, OpenInference
from backend.serving.openai_api import OpenAiApi
from backend.serving.openai_text import TextApi
from backend.serving.openai_wire import ChatBody, CompletionBody, EmbeddingsBody
from backend.serving.predict_api import PredictApi, PredictBody
from backend.serving.stats import prometheus

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "index.html": b"text/html; charset=utf-8",
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
}
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
_BODIES: dict[str, type] = {
    "/v1/predict": PredictBody,
    "/v2/models/{model}/infer": InferBody,
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingsBody,
}


def all_routes(host: ModelHost, refused: Counter[str], needs_key: bool) -> tuple[Route, ...]:
    predict, inference = PredictApi(host), OpenInference(host, program_version())
    own = (
        Route("GET", "/health", _Health(host, needs_key).answer, "Whether the server answers", None),
        Route("POST", "/v1/predict", predict.predict, "Outputs of a model for its inputs"),
        Route("GET", "/v1/model", predict.describe, "What the model takes and gives"),
        Route("GET", "/metrics", _Metrics(host, refused).answer, "Counts for Prometheus", "metrics"),
    )
    routes = (*own, *_open_inference(inference), *_openai(host))
    document = Reply(msgspec.json.encode(openapi(routes)))
    return (*routes, *_page(), Route("GET", "/openapi.json", _fixed(document), "This document", None))


def _open_inference(api: OpenInference) -> tuple[Route, ...]:
    error = open_inference_error
    model, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    repository = "/v2/repository/models/{model}"
    both = [
        route
        for base in (model, versioned)
        for route in (
            Route("POST", f"{base}/infer", api.infer, "Infer, with or without binary tensors", refuse=error),
            Route("GET", base, api.metadata, "Inputs and outputs of a model", refuse=error),
            Route("GET", f"{base}/ready", api.model_ready, "Whether a model answers", refuse=error),
        )
    ]
    return (
        Route("GET", "/v2", api.about, "The server and its extensions", None, error),
        Route("GET", "/v2/health/live", api.live, "Whether the server runs", None, error),
        Route("GET", "/v2/health/ready", api.ready, "Whether the server answers", None, error),
        *both,
        Route("POST", "/v2/repository/index", api.repository, "The models and their states", refuse=error),
        Route("POST", f"{repository}/load", api.load, "Load a model", "manage", error),
        Route("POST", f"{repository}/unload", api.unload, "Unload a model", "manage", error),
    )


def _openai(host: ModelHost) -> tuple[Route, ...]:
    api, text = OpenAiApi(host), TextApi(host)
    error = openai_error
    return (
        Route("GET", "/v1/models", api.models, "The models here", refuse=error),
        Route("GET", "/v1/models/{model}", api.model, "One of them", refuse=error),
        Route(
            "POST", "/v1/chat/completions", text.chat, "Go on with a conversation", refuse=error, long=True
        ),
        Route("POST", "/v1/completions", text.completion, "Go on with a text", refuse=error, long=True),
        Route("POST", "/v1/embeddings", api.embeddings, "Texts as vectors", refuse=error),
    )


def _page() -> tuple[Route, ...]:
    """The files are read once, here."""
    replies = {
        name: Reply((_PAGE / name).read_bytes(), kind, headers=_PAGE_HEADERS) for name, kind in _FILES.items()
    }
    return (
        Route("GET", "/", _fixed(replies["index.html"]), "A page to try the model by hand", None),
        Route("GET", "/page.css", _fixed(replies["page.css"]), "Its looks", None),
        Route("GET", "/page.js", _fixed(replies["page.js"]), "Its program", None),
    )


class _Health:
    def __init__(self, host: ModelHost, needs_key: bool) -> None:
        self._host = host
        self._needs_key = needs_key

    async def answer(self, call: Call) -> Reply:
        return json_reply({"status": "ok", "models": len(self._host.names), "needs_key": self._needs_key})


class _Metrics:
    def __init__(self, host: ModelHost, refused: Counter[str]) -> None:
        self._host = host
        self._refused = refused

    async def answer(self, call: Call) -> Reply:
        text = prometheus(self._host.readings(), self._refused)
        return Reply(text.encode(), b"text/plain; version=0.0.4; charset=utf-8")


def _fixed(reply: Reply) -> Handler:
    async def answer(call: Call) -> Reply:
        return reply

    return answer


def openapi(routes: tuple[Route, ...]) -> dict[str, Any]:
    """OpenAPI 3.1, from the routes and the types that read their bodies."""
    schemas, components = msgspec.json.schema_components(
        list(_BODIES.values()), ref_template="#/components/schemas/{name}"
    )
    by_path = dict(zip(_BODIES, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "responses": {"200": {"description": "The answer"}, "default": {"description": "A refusal"}},
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _names(route.path)
            ],
            "security": [] if route.scope is None else [{"key": []}],
        }
        if route.path in by_path:
            content = {"application/json": {"schema": by_path[route.path]}}
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "CyxWiz model server", "version": program_version()},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def program_version() -> str:
    try:
        return version("cyxwiz")
    except PackageNotFoundError:
        return "0"
