"""The alternatives that serve.py and remote_infer.py measure: the same ONNX model behind FastAPI and behind
grpc.aio, the same GGUF model behind llama.cpp's own server.

``python serve_rivals.py fastapi|grpc|llama MODEL PORT``. Written as their own documentation does it.
"""
# No postponed annotations: FastAPI reads those of a function in a function.

import asyncio
import os
import signal
import sys
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime


class Model:
    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def run(self, x: Any) -> Any:
        return self._session.run(None, {self._input: x})[0]


def serve_fastapi(model: Model, port: int) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Question(BaseModel):
        inputs: list[Any]

    app = FastAPI()

    @app.post("/predict")
    async def predict(question: Question) -> dict[str, Any]:
        return {"outputs": model.run(np.asarray(question.inputs, np.float32)).tolist()}

    uvicorn.run(app, port=port, log_level="error")


async def serve_grpc(model: Model, port: int) -> None:
    import grpc

    async def infer(request: bytes, _context: Any) -> bytes:
        return bytes(model.run(np.frombuffer(request, np.float32).reshape(-1, 1, 28, 28)).tobytes())

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(
        "t.T", {"Infer": grpc.unary_unary_rpc_method_handler(infer)}
    )
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def serve_llama(path: str, port: int) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.port = path, port
    parameters.n_ctx, parameters.n_parallel = 4096, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    signal.sigwait([signal.SIGTERM])
    del server


if __name__ == "__main__":
    what, path, port = sys.argv[1:]
    if what == "llama":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        serve_llama(path, int(port))
    elif what == "fastapi":
        serve_fastapi(Model(path), int(port))
    else:
        asyncio.run(serve_grpc(Model(path), int(port)))
