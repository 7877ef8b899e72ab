"""numpy arrays to tensors of the wire and back. The only module of a session that needs numpy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from p2p.session.errors import JobRefusedError, SetupError
from p2p.session.inference import Tensor

if TYPE_CHECKING:
    from p2p.session.engine import JobEngine

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")


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
    from io import BytesIO

    from p2p.datadir import write_atomic

    numpy = _numpy()
    try:
        array = await trio.to_thread.run_sync(lambda: numpy.load(source, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise JobRefusedError(f"{source} is no .npy file: {error}") from error
    if not isinstance(array, numpy.ndarray):
        array.close()
        raise JobRefusedError(f"{source} is an archive of arrays, allowed is one array in a .npy file")
    started = trio.current_time()
    answer = to_array(await engine.predict(peer, model, to_tensor(array)))
    duration_s = trio.current_time() - started
    buffer = BytesIO()
    numpy.save(buffer, answer, allow_pickle=False)
    await trio.to_thread.run_sync(write_atomic, target, buffer.getvalue())
    return {
        "output": str(target),
        "dtype": str(answer.dtype),
        "shape": list(answer.shape),
        "duration_s": duration_s,
    }


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise SetupError("numpy is not installed: pip install 'cyxwiz[engine]'") from error
    return numpy
