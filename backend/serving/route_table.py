"""Which route a request is for, and the OpenAPI document that describes them all. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from backend.serving.bodies import InferBody, PredictBody
from backend.serving.http import HttpError
from backend.serving.openai_wire import ChatBody, CompletionBody, EmbeddingsBody

_BODIES: dict[str, type] = {
    "/v1/predict": PredictBody,
    "/v2/models/{model}/infer": InferBody,
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingsBody,
}


class Described(Protocol):
    """``path``: its parts in braces match up to the next slash. ``scope``: None for everybody."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def scope(self) -> str | None: ...


R = TypeVar("R", bound=Described)


class RouteTable(Generic[R]):
    def __init__(self, routes: Iterable[R] = ()) -> None:
        self._exact: dict[tuple[str, str], R] = {}
        self._patterns: list[tuple[re.Pattern[str], R]] = []
        self.add(routes)

    def add(self, routes: Iterable[R]) -> None:
        for route in routes:
            if "{" in route.path:
                self._patterns.append((_pattern(route.path), route))
            else:
                self._exact[route.method, route.path] = route

    def find(self, method: str, path: str) -> tuple[R, dict[str, str]]:
        """The route, and what the parts in braces are; HEAD is answered as GET. Raises HttpError 404, 405."""
        asked, method = method, "GET" if method == "HEAD" else method
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact, {}
        allowed = {route.method for route in self._exact.values() if route.path == path}
        for pattern, route in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None:
                if route.method == method:
                    return route, match.groupdict()
                allowed.add(route.method)
        if allowed:
            if "GET" in allowed:
                allowed.add("HEAD")
            names = ", ".join(sorted(allowed))
            headers = ((b"allow", names.encode()),)
            raise HttpError(405, "method", f"{asked[:20]}, allowed is {names}", headers)
        raise HttpError(404, "not_found", "no such path: /openapi.json lists those that there are")


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))


def openapi(routes: Iterable[Described], title: str, version: str) -> dict[str, Any]:
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
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _names(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]
