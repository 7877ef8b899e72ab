"""What a gateway tells of all its models together, in the words of each protocol. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")

Ready = Mapping[str, bool]
"""By model, in the order of the models: whether an endpoint of it answers."""


def health(ready: Ready, needs_key: bool) -> dict[str, Any]:
    up = sum(ready.values())
    status = "ok" if up == len(ready) else "degraded"
    return {"status": status, "models": len(ready), "ready": up, "needs_key": needs_key}


def about(version: str) -> dict[str, Any]:
    return {"name": "cyxwiz-gateway", "version": version, "extensions": _EXTENSIONS}


def repository_index(ready: Ready) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "version": "1",
            "state": "READY" if is_ready else "UNAVAILABLE",
            "reason": "" if is_ready else "no endpoint of it answers",
        }
        for name, is_ready in ready.items()
    ]


def openai_models(ready: Ready, created: int) -> dict[str, Any]:
    """``created``: seconds since 1970."""
    data = [{"id": name, "object": "model", "created": created, "owned_by": "cyxwiz"} for name in ready]
    return {"object": "list", "data": data}
