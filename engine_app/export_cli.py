"""Commands about model files: into other formats, out of them, and what is in them."""

from __future__ import annotations

from pathlib import Path

import click

from engine_app.arguments import DATA, NEW_FILE, OLD_FILE, OLD_FILE_OR_FOLDER
from engine_app.train_cli import config_of

FORMATS = ("cyxmodel", "onnx", "safetensors", "gguf", "pytorch")
TENSOR_TYPES = ("f32", "f16", "q8_0")


@click.command()
@click.argument("model", type=OLD_FILE)
@click.option("--to", "to", type=click.Choice(FORMATS), required=True, help="The format to write.")
@click.option("-o", "--output", required=True, type=NEW_FILE, help="Written whole or not at all.")
@click.option("--with-preprocessing", is_flag=True, help="ONNX: normalization and encoding go inside.")
@click.option(
    "--type",
    "tensor_type",
    type=click.Choice(TENSOR_TYPES),
    default="f32",
    show_default=True,
    help="GGUF: how weights are stored.",
)
@click.option("--data", type=DATA, help="Compare answers on samples of this; default: on drawn inputs.")
@click.option("--certificate", type=NEW_FILE, help="Default: OUTPUT with .certificate.json added.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
@click.pass_context
def export(
    context: click.Context,
    /,
    model: Path,
    to: str,
    output: Path,
    with_preprocessing: bool,
    tensor_type: str,
    data: Path | None,
    certificate: Path | None,
    as_json: bool,
) -> None:
    """Write MODEL in another format, run what was written, and certify that it answers the same.

    Weights are named NODE.WEIGHT, after the graph's nodes. GGUF is for llama.cpp where the graph is a
    llama or a GPT-2 to the letter, else a container of tensors; the answer says which.
    """
    from engine_app import exporting

    order = exporting.Order(model, to, output, with_preprocessing, tensor_type, data, certificate)
    exporting.export_here(config_of(context), order, as_json)


@click.command()
@click.argument("path", metavar="FILE", type=OLD_FILE_OR_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
def inspect(path: Path, as_json: bool) -> None:
    """Say what is in FILE: a model of any format, a graph, data, or a folder of these. Runs nothing."""
    from engine_app.inspecting import inspect_file

    inspect_file(path, as_json)


@click.command("import")
@click.argument("path", metavar="FILE", type=OLD_FILE_OR_FOLDER)
@click.option("-o", "--output", required=True, type=NEW_FILE, help="A .cyxmodel; .json: its graph alone.")
@click.option("--graph", type=OLD_FILE, help="The graph that weights belong to, by their names.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="NAME=N",
    help="Of an axis that an ONNX leaves open (inspect names them), the batch also 1; steps=N of a GGUF.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout.")
@click.pass_context
def import_(
    context: click.Context,
    path: Path,
    output: Path,
    graph: Path | None,
    sizes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a model of FILE: ONNX, safetensors, a folder of them, or GGUF.

    Operators of an ONNX that no node stands for are kept as they are: onnxruntime computes them, and what
    is before them is not trained. Of GGUF, llamas, GPT-2s and what cyxwiz export wrote are taken over. A
    folder of a llama, Mistral or GPT-2 with its config.json needs no --graph.
    """
    from engine_app.importing import import_here

    import_here(config_of(context), path, output, graph, sizes, as_json)


FILE_COMMANDS = (export, import_, inspect)
