"""Model servers of this machine and their keys, as commands see them."""

from __future__ import annotations

import ipaddress
import re
import secrets
import signal
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import trio
from msgspec import to_builtins

from backend.formats.model_folder import is_model_folder
from backend.formats.sniff import ModelFormat, sniff
from backend.serving.keys import make_key
from backend.serving.messages import ApiKey, RuntimeOptions, ServerLimits
from backend.workers.model_server import ModelFile, ServerListener, ServerPlan, SupervisedServer, bind
from backend.workers.supervisor import PoolConfig
from engine_app.config import Config, read_config
from engine_app.entry import CommandError, run
from engine_app.key_file import Keys, read_keys, write_keys
from engine_app.plain import plain
from engine_app.show import print_json
from p2p.errors import LocalProtocolError
from p2p.transfer_rate import parse_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRACE_S = 10.0
RUNTIME_BYTES = 2 << 30
"""For the runtimes and the work on requests, beside the models."""
_SERVED = (ModelFormat.CYXMODEL, ModelFormat.ONNX, ModelFormat.GGUF)
_TOKENIZER = "tokenizer.json"
_BODIES = 4
"""As many of the largest size may be here at a time."""
_LOADED = 2
"""As much as its file is what a model may hold, once it is loaded."""
_HANG_S = 20.0
_STALL_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class ServeOrder:
    """What ``cyxwiz serve`` was told."""

    models: tuple[ModelFile, ...]
    host: str
    port: int
    limits: ServerLimits
    hosts: tuple[str, ...]
    require_key: bool
    sandbox: str
    device: str
    as_json: bool


def read_order(paths: tuple[Path, ...], options: dict[str, Any]) -> ServeOrder:
    """Raises CommandError for what cannot be served."""
    names = list(options["names"])
    if len(names) > len(paths):
        raise CommandError(f"{len(names)} names for {len(paths)} models")
    runtime = RuntimeOptions(options["threads"], options["gpu_layers"], options["context"])
    models: list[ModelFile] = []
    for number, path in enumerate(paths):
        file, tokenizer = find_model(path, options["tokenizer"])
        name = model_name(names[number] if number < len(names) else path.stem)
        models.append(ModelFile(name, file, options["device"], runtime, tokenizer))
    if len({model.name for model in models}) < len(models):
        raise CommandError("two models of one name: give others with --name")
    body_bytes = _bytes(options["max_body"])
    limits = ServerLimits(
        body_bytes=body_bytes,
        bodies_bytes=_BODIES * body_bytes,
        waiting=options["queue"],
        batch_items=options["batch"],
        window_s=max(0.0, options["batch_wait"]) / 1000,
        timeout_s=options["timeout"],
        memory_bytes=_bytes(options["memory"]),
    )
    rest = (options["require_key"], options["sandbox"], options["device"], options["as_json"])
    return ServeOrder(tuple(models), options["host"], options["port"], limits, options["hosts"], *rest)


def share_a_worker(order: ServeOrder) -> bool:
    """A single model has its worker anyway; several have one each, unless they must take turns in memory."""
    size_bytes = sum(model.path.stat().st_size for model in order.models)
    return len(order.models) == 1 or _LOADED * size_bytes > order.limits.memory_bytes


def serve_models(config: Config, order: ServeOrder) -> None:
    """Until Ctrl-C; a second one does not wait for requests in flight."""

    async def main() -> None:
        needs_key = order.require_key or not is_loopback(order.host)
        keys = Keys(config.data_dir, lambda problem: _tell_keys(problem, order.as_json))
        if needs_key and not keys():
            raise CommandError(
                f"answering on {order.host} needs an API key: make one with `cyxwiz keys new NAME`"
            )
        workspace = config.data_dir / "serving"
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = listen(order.host, order.port)
        with TemporaryDirectory(dir=workspace) as directory, listener:
            plan = plan_of(order, Path(directory), needs_key)
            told = _News(order, listener)
            server = SupervisedServer(plan, listener, keys, told.listener)
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    nursery.start_soon(_stop_on_signal, signals, server, nursery.cancel_scope)
                    await server.run()
                    nursery.cancel_scope.cancel()
        if server.unanswered:
            raise CommandError(f"stopped with {server.unanswered} requests unanswered")

    run(main, config)


def listen(host: str, port: int) -> socket.socket:
    """Raises CommandError."""
    try:
        return bind(host, port)
    except OSError as error:
        raise CommandError(
            f"cannot answer at {host}, port {port}: {error.strerror}; --port 0 takes a free one"
        ) from error


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _News:
    """What the user is told while the server runs."""

    def __init__(self, order: ServeOrder, listener: socket.socket) -> None:
        self._url = url_of(listener)
        self._as_json = order.as_json
        self.listener = ServerListener(on_ready=self._ready, on_death=self._death)

    def _ready(self, lines: tuple[str, ...]) -> None:
        if self._as_json:
            print_json({"event": "ready", "url": self._url, "models": lines})
            return
        print(f"{self._url}  (Ctrl-C stops)", flush=True)
        for line in lines:
            print(f"  {plain(line)}", flush=True)

    def _death(self, reason: str, pause_s: float) -> None:
        if self._as_json:
            print_json({"event": "died", "reason": reason, "pause_s": pause_s})
            return
        print(f"the worker ended: {plain(reason)}; another one starts in {pause_s:g} s", flush=True)


def _tell_keys(problem: str, as_json: bool) -> None:
    if as_json:
        print_json({"event": "keys", "problem": problem})
        return
    print(f"{plain(problem)}; the keys that it held before stay in force", flush=True)


async def _stop_on_signal(
    signals: AsyncIterator[int], server: SupervisedServer, everything: trio.CancelScope
) -> None:
    stopping = False
    async for _ in signals:
        if stopping or server.worker is None:
            everything.cancel()
            return
        stopping = True
        await server.stop(GRACE_S)


def plan_of(order: ServeOrder, directory: Path, needs_key: bool) -> ServerPlan:
    pool = PoolConfig(
        directory=directory / "workers",
        memory_bytes=order.limits.memory_bytes + RUNTIME_BYTES,
        wall_clock_s=float("inf"),
        sandbox=order.sandbox,
        device=order.device,
        threads=order.models[0].options.threads,
        hang_s=_HANG_S,
        stall_s=order.limits.timeout_s + _STALL_GRACE_S,
    )
    hosts = (*order.hosts, order.host, *(() if is_loopback(order.host) else (socket.gethostname(),)))
    return ServerPlan(order.models, pool, order.limits, hosts, needs_key)


def find_model(path: Path, tokenizer: Path | None) -> tuple[Path, Path | None]:
    """A model's file, and the tokenizer that was named or lies beside it. Raises CommandError."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and sniff(file) in _SERVED)
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            weights = "; cyxwiz import makes one of its weights" if is_model_folder(path) else ""
            raise CommandError(f"{path}: one model is expected in a folder, found {names}{weights}")
        beside = path / _TOKENIZER
        return found[0], tokenizer or (beside if beside.is_file() else None)
    kind = sniff(path)
    if kind not in _SERVED:
        served = ", ".join(each.value for each in _SERVED)
        weights = "; cyxwiz import makes a .cyxmodel of it" if kind is ModelFormat.SAFETENSORS else ""
        raise CommandError(f"{path.name} is {kind.value}, served are {served}{weights}")
    return path, tokenizer if kind is ModelFormat.ONNX else None


def model_name(text: str) -> str:
    """As it can stand in a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:80] or "model"


def _bytes(text: str) -> int:
    """Raises CommandError."""
    try:
        return parse_bytes(text)
    except LocalProtocolError as error:
        raise CommandError(f"size of {error}") from error


# -- keys --------------------------------------------------------------------------------------------


def new_key(data_dir: str | None, name: str, scopes: tuple[str, ...], per_minute: int, as_json: bool) -> None:
    directory, _ = _keys(data_dir)
    text, kept = add_key(directory, name, scopes, per_minute)
    if as_json:
        print_json({"key": text, **_shown(kept)})
        return
    print(text)
    print(f"Key {kept.id} for {plain(name)}: keep it now, it is shown only once.")


def add_key(directory: Path, name: str, scopes: tuple[str, ...], per_minute: int = 0) -> tuple[str, ApiKey]:
    """The key, which is kept nowhere, and what is kept of it. Blocking. Raises CommandError, OSError."""
    if not name.strip():
        raise CommandError("a key without a name, which says whose it is")
    random = secrets.token_hex(4), secrets.token_urlsafe(32)
    text, kept = make_key(name, scopes, per_minute, random, datetime.now(UTC).isoformat(timespec="seconds"))
    write_keys(directory, (*read_keys(directory), kept))
    return text, kept


def list_keys(data_dir: str | None, as_json: bool) -> None:
    _, keys = _keys(data_dir)
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    for key in keys:
        limit = f"{key.per_minute} a minute" if key.per_minute else "no limit"
        print(f"{key.id}  {plain(key.name)}  {', '.join(key.scopes)}  {limit}  {key.created}")


def revoke_key(data_dir: str | None, key_id: str) -> None:
    directory, keys = _keys(data_dir)
    left = tuple(key for key in keys if key.id != key_id)
    if len(left) == len(keys):
        raise CommandError(f"no key {key_id!r}: `cyxwiz keys list` shows them")
    write_keys(directory, left)
    print(f"revoked {key_id}")


def _keys(data_dir: str | None) -> tuple[Path, tuple[ApiKey, ...]]:
    directory = read_config(data_dir).data_dir
    return directory, read_keys(directory)


def _shown(key: ApiKey) -> dict[str, Any]:
    return {name: value for name, value in to_builtins(key).items() if name != "sha256"}
