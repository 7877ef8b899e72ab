"""``cyxwiz serve`` and ``cyxwiz keys``: models that answer over HTTP, and who may ask them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from engine_app.arguments import DEVICE, OLD_FILE, OLD_FILE_OR_FOLDER, Number
from engine_app.train_cli import config_of
from p2p.help_sections import SectionedCommand

MAX_PER_MINUTE = 1_000_000

_OPTIONS = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to answer on."),
    click.option(
        "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
    ),
    click.option("--name", "names", multiple=True, help="Of each model in turn; default: its file's name."),
    click.option(
        "--device", default="cpu", show_default=True, type=DEVICE, help="As torch names it: cpu, cuda:0."
    ),
    click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 256), help="Of a model."),
    click.option(
        "--tokenizer", type=OLD_FILE, help="tokenizer.json for models of texts; default: beside the model."
    ),
    click.option(
        "--gpu-layers",
        default=0,
        show_default=True,
        type=click.IntRange(-1, 10_000),
        help="Of a GGUF model on the GPU; -1: all.",
    ),
    click.option("--context", default=0, type=click.IntRange(0, 1 << 20), help="Tokens of a GGUF model."),
    click.option(
        "--memory", default="4G", show_default=True, help="Of all models; more give way to each other."
    ),
    click.option(
        "--batch", default=32, show_default=True, type=click.IntRange(1, 4096), help="Rows at a time."
    ),
    click.option(
        "--batch-wait",
        default=0.0,
        show_default=True,
        type=Number(0, 10_000),
        help="Milliseconds that a row waits for others.",
    ),
    click.option(
        "--queue", default=256, show_default=True, type=click.IntRange(1, 65536), help="Waiting requests."
    ),
    click.option("--max-body", default="64M", show_default=True, help="Largest request."),
    click.option("--timeout", default=60.0, show_default=True, type=Number(0.1, 3600), help="Seconds."),
    click.option(
        "--allow-host", "hosts", multiple=True, help="Another name of this server, for Host headers."
    ),
    click.option("--require-key", is_flag=True, help="Ask for an API key on loopback too."),
    click.option(
        "--sandbox",
        default="auto",
        show_default=True,
        type=click.Choice(("auto", "landlock", "bwrap", "none")),
        help="How workers are closed off.",
    ),
    click.option("--json", "as_json", is_flag=True, help="News as JSON lines on stdout."),
)

SECTIONS: dict[str, tuple[str, ...]] = {
    "The models": ("names", "tokenizer", "gpu_layers", "context"),
    "What they run on": ("device", "threads", "memory", "sandbox"),
    "Where it answers, and whom": ("host", "port", "hosts", "require_key"),
    "How much at a time": ("batch", "batch_wait", "queue", "max_body", "timeout"),
}


def serving_options(command: Callable[..., None]) -> Callable[..., None]:
    """What every server of models takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(cls=SectionedCommand, sections=SECTIONS)
@click.argument("models", nargs=-1, required=True, type=OLD_FILE_OR_FOLDER)
@serving_options
@click.pass_context
def serve(context: click.Context, /, models: tuple[Path, ...], **options: object) -> None:
    """Answer HTTP with MODELS: .cyxmodel, ONNX or GGUF, or a folder with one and its tokenizer.

    Each has a worker of its own, so that none notices what another does; only models that do not fit into
    --memory together share one, in which they give way to each other.

    /v1/predict, the Open Inference Protocol (/v2), the OpenAI API for models of text, /metrics, and a
    page at / to try it by hand. Beyond loopback every request needs a key: see `cyxwiz keys`.
    """
    from engine_app.gateway.running import GatewayOrder, run_gateway
    from engine_app.serving import read_order, serve_models, share_a_worker

    config, order = config_of(context), read_order(models, options)
    if share_a_worker(order):
        serve_models(config, order)
    else:
        run_gateway(config, GatewayOrder(order, frozenset(), order.limits.connections))


@click.group()
def keys() -> None:
    """Keys for the HTTP servers of this machine."""


@keys.command("new")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(["predict", "metrics", "manage"]))
@click.option(
    "--per-minute", default=0, type=click.IntRange(0, MAX_PER_MINUTE), help="Requests; default: no limit."
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
@click.pass_context
def keys_new(
    context: click.Context, name: str, scopes: tuple[str, ...], per_minute: int, as_json: bool
) -> None:
    """Make a key for whoever is called NAME. It is shown once; a running server knows it within a second."""
    from engine_app.serving import new_key

    new_key(context.obj, name, scopes or ("predict",), per_minute, as_json)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
@click.pass_context
def keys_list(context: click.Context, as_json: bool) -> None:
    """List the keys: ids and names, never the keys."""
    from engine_app.serving import list_keys

    list_keys(context.obj, as_json)


@keys.command("revoke")
@click.argument("id")
@click.pass_context
def keys_revoke(context: click.Context, id: str) -> None:
    """Take a key back, also from servers that run."""
    from engine_app.serving import revoke_key

    revoke_key(context.obj, id)
