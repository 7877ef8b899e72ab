"""Every path that a model server answers, and what describes them: health, metrics, OpenAPI, the page."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version

import msgspec

from backend.serving.app import Route
from backend.serving.host import ModelHost
from backend.serving.http import Call, Handler, Reply, json_reply, open_inference_error, openai_error
from backend.serving.open_inference import OpenInference
from backend.serving.openai_api import OpenAiApi
from backend.serving.openai_text import TextApi
from backend.serving.page_files import page_replies
from backend.serving.predict_api import PredictApi
from backend.serving.route_table import openapi
from backend.serving.stats import prometheus


def all_routes(host: ModelHost, refused: Counter[str], needs_key: bool) -> tuple[Route, ...]:
    predict, inference = PredictApi(host), OpenInference(host, PROGRAM_VERSION)
    own = (
        Route("GET", "/health", _Health(host, needs_key).answer, "Whether the server answers", None),
        Route(
            "POST",
            "/v1/predict",
            predict.predict,
            "Outputs of a model for its inputs",
            direct=predict.direct,
        ),
        Route("GET", "/v1/model", predict.describe, "What the model takes and gives"),
        Route("GET", "/metrics", _Metrics(host, refused).answer, "Counts for Prometheus", "metrics"),
    )
    routes = (*own, *_open_inference(inference), *_openai(host))
    document = Reply(msgspec.json.encode(openapi(routes, "CyxWiz model server", PROGRAM_VERSION)))
    return (*routes, *_page(), Route("GET", "/openapi.json", _fixed(document), "This document", None))


def _open_inference(api: OpenInference) -> tuple[Route, ...]:
    error = open_inference_error
    model, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    repository = "/v2/repository/models/{model}"
    both = [
        route
        for base in (model, versioned)
        for route in (
            Route(
                "POST",
                f"{base}/infer",
                api.infer,
                "Infer, with or without binary tensors",
                refuse=error,
                direct=api.direct,
            ),
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
    texts = {"/": "A page to try the model by hand", "/page.css": "Its looks", "/page.js": "Its program"}
    return tuple(
        Route("GET", path, _fixed(reply), texts[path], None) for path, reply in page_replies().items()
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


def _program_version() -> str:
    try:
        return version("cyxwiz")
    except PackageNotFoundError:
        return "0"


PROGRAM_VERSION = _program_version()
"""Read before a worker closes itself to files."""
