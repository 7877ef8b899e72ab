"""numpy arrays to tensors of the wire and back. The only module of a session that needs numpy."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2p.datadir import write_atomic
from p2p.protocols.inference import ITEM_BYTES
from p2p.session.errors import JobRefusedError, SetupError
from p2p.session.inference import Tensor

if TYPE_CHECKING:
    from p2p.session.engine import JobEngine
    from p2p.session.model_at_peer import ModelAtPeer

DTYPES = tuple(ITEM_BYTES)
MAX_ARRAYS = 64


def to_tensor(array: Any) -> Tensor:
    """Raises JobRefusedError for a dtype that the wire does not carry."""
    numpy = _numpy()
    array = numpy.asarray(array)
    if array.dtype.name not in DTYPES:
        raise JobRefusedError(f"input of dtype {array.dtype.name}, allowed are {', '.join(DTYPES)}")
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return Tensor(array.dtype.name, tuple(array.shape), little.tobytes())


def to_array(tensor: Tensor) -> Any:
    """Raises JobRefusedError where data and shape do not fit each other."""
    numpy = _numpy()
    try:
        flat = numpy.frombuffer(tensor.data, numpy.dtype(tensor.dtype).newbyteorder("<"))
        return flat.reshape(tensor.shape).astype(tensor.dtype)
    except (ValueError, TypeError) as error:
        raise JobRefusedError(f"the peer's answer is no {tensor.dtype} of {tensor.shape}: {error}") from error


async def predict_file(
    engine: JobEngine, peer: str, model: str, source: Path, target: Path
) -> dict[str, Any]:
    """One call with the array of one .npy file; the answer in another."""
    arrays = await trio.to_thread.run_sync(_read_arrays, source)
    if list(arrays) != [""]:
        raise JobRefusedError(f"{source} is an archive of arrays, allowed is one array in a .npy file")
    started = trio.current_time()
    answer = to_array(await engine.predict(peer, model, to_tensor(arrays[""])))
    duration_s = trio.current_time() - started
    await trio.to_thread.run_sync(_write_arrays, target, {"": answer})
    return {
        "output": str(target),
        "dtype": str(answer.dtype),
        "shape": list(answer.shape),
        "duration_s": duration_s,
    }


async def predict_deployed(model: ModelAtPeer, source: Path, target: Path) -> dict[str, Any]:
    """One call with the array of a .npy file, or the named arrays of a .npz; all outputs in a .npz."""
    arrays = await trio.to_thread.run_sync(_read_arrays, source)
    started = trio.current_time()
    found = await model.predict({name: to_tensor(array) for name, array in arrays.items()})
    duration_s = trio.current_time() - started
    outputs = {name: to_array(tensor) for name, tensor in found.items()}
    await trio.to_thread.run_sync(_write_arrays, target, outputs)
    return {
        "output": str(target),
        "outputs": [
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in outputs.items()
        ],
        "duration_s": duration_s,
    }


def _read_arrays(source: Path) -> dict[str, Any]:
    """Those of a .npz by name, that of a .npy by an empty one. Raises JobRefusedError."""
    numpy = _numpy()
    try:
        found = numpy.load(source, allow_pickle=False)
        if isinstance(found, numpy.ndarray):
            return {"": found}
        with found:
            if len(found.files) > MAX_ARRAYS:
                raise JobRefusedError(f"{source} holds {len(found.files)} arrays, limit {MAX_ARRAYS}")
            return {name: found[name] for name in found.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None)  # NumPy's own texts say how to trust a pickle
        raise JobRefusedError(f"{source} is no .npy or .npz file{f': {why}' if why else ''}") from error


def _write_arrays(target: Path, arrays: dict[str, Any]) -> None:
    """A .npy of the one with an empty name, else a .npz. Atomic."""
    numpy = _numpy()
    buffer = BytesIO()
    if list(arrays) == [""]:
        numpy.save(buffer, arrays[""], allow_pickle=False)
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in arrays.items():
                if not name.isprintable() or ".." in name.split("/"):
                    raise JobRefusedError(f"the peer's answer names an output {name!r}")
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    numpy.lib.format.write_array(member, array, allow_pickle=False)
    write_atomic(target, buffer.getvalue())


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise SetupError("numpy is not installed: pip install 'cyxwiz[engine]'") from error
    return numpy
