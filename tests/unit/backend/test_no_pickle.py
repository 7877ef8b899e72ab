"""No product source may unpickle, evaluate text as code, or hand a string to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("backend", "p2p", "coordinator", "peer", "engine_app", "scripts")
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "os.system",
    "os.popen",
}
FORBIDDEN_CALLS |= {"torch.jit.load", "torch.hub.load", "torch.package", "yaml.load", "np.load", "numpy.load"}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
        case _:
            return "?"


def refuses_pickle(call: ast.Call) -> bool:
    return any(
        keyword.arg == "allow_pickle"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is False
        for keyword in call.keywords
    )


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.split(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in FORBIDDEN_MODULES:
                    yield module
                yield from (
                    f"{module}.{name.name}" for name in names if f"{module}.{name.name}" in FORBIDDEN_CALLS
                )
            case ast.Call(func=function, keywords=keywords):
                name = dotted(function)
                if name in FORBIDDEN_CALLS and not (
                    name in {"np.load", "numpy.load"} and refuses_pickle(node)
                ):
                    yield name
                for keyword in keywords:
                    value = keyword.value
                    if keyword.arg == "shell" and not (
                        isinstance(value, ast.Constant) and value.value is False
                    ):
                        yield "shell="
                    if keyword.arg == "allow_pickle" and not refuses_pickle(node):
                        yield "allow_pickle="


def test_no_product_source_unpickles_or_evaluates() -> None:
    found = {str(path.relative_to(ROOT)): list(offences(path.read_text())) for path in sources()}
    assert len(found) > 20
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "eval('1')",
        "exec('1')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import os\nos.system('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_the_scan_sees_each_of_them(source: str) -> None:
    assert list(offences(source))


def test_the_scan_allows_what_is_safe() -> None:
    source = "import numpy as np, re\nnp.load('x', allow_pickle=False)\nre.compile('x')\nmodel.eval()"
    assert list(offences(source)) == []
