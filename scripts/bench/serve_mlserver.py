"""The model of serve.py as an MLServer runtime; imported by mlserver in a venv of its own."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = self.settings.parameters.uri
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0]).astype("float32", copy=False)
        output = self._session.run(None, {self._session.get_inputs()[0].name: x})[0]
        outputs = [NumpyCodec.encode_output(name="output", payload=output)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
