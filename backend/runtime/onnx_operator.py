"""One ONNX operator as a torch module, computed by onnxruntime on the CPU; no gradient passes through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from backend.errors import DeadlineError, InputError
from backend.formats.onnx_check import check_onnx
from backend.formats.onnx_write import input_name, one_node_model
from backend.formats.tensors import Array
from backend.onnx_node import PROGRAM_PLACE, RANDOM_OPERATORS, OnnxNode, OnnxTensor, weight_place
from backend.runtime.deadlines import check_deadline, deadline_of_run


class OnnxOperation(nn.Module):
    """Takes a tensor for each input that flows, batch first, and gives one or a tuple of several."""

    def __init__(self, node: OnnxNode) -> None:
        super().__init__()
        self.node = node
        self._session: Any = None
        self._session_of: tuple[object, ...] = ()
        for number, tensor in enumerate(node.inputs):
            if tensor is not None and tensor.kind == "weights":
                values = torch.zeros(tensor.shape, dtype=torch_type(tensor))
                self.register_buffer(weight_place(number), values)
        if node.program:
            self.register_buffer(PROGRAM_PLACE, torch.zeros(node.program, dtype=torch.uint8))

    def __getstate__(self) -> dict[str, Any]:
        """Sessions cannot be copied; a copy opens its own."""
        return {**self.__dict__, "_session": None, "_session_of": ()}

    def forward(self, *values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Raises InputError where onnxruntime fails, or answers with something else than the node says."""
        if values[0].is_meta:
            found = tuple(_unfilled(tensor, len(values[0])) for tensor in self.node.given)
            return found[0] if len(found) == 1 else found
        found = tuple(
            self._checked(answer, wanted, len(values[0]), values[0].device)
            for answer, wanted in zip(self.run(values), self.node.given, strict=True)
        )
        return found[0] if len(found) == 1 else found

    def run(self, values: Sequence[torch.Tensor]) -> list[Array]:
        """What onnxruntime gives, whatever its shape. Raises InputError, DeadlineError.

        A deadline is looked at before each operator; a program, which may hold loops, is also stopped by it.
        """
        if self.node.alone and len(values[0]) > 1:
            return self._one_by_one(values)
        check_deadline()
        given = {
            input_name(number): value.detach().to("cpu", torch_type(tensor)).contiguous().numpy()
            for (number, tensor), value in zip(self._flowing(), values, strict=True)
        }
        try:
            answers = self._answers(given)
        except (DeadlineError, MemoryError):
            raise
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise InputError(f"ONNX operator {self.node.operator}: {str(error)[:500]}") from error
        if not all(isinstance(answer, np.ndarray) for answer in answers):
            raise InputError(f"ONNX operator {self.node.operator} gives something that is no tensor")
        return list(answers)

    def _one_by_one(self, values: Sequence[torch.Tensor]) -> list[Array]:
        each = [self.run([value[at : at + 1] for value in values]) for at in range(len(values[0]))]
        try:
            return [np.concatenate(parts) for parts in zip(*each, strict=True)]
        except ValueError as error:
            name = self.node.operator
            raise InputError(f"ONNX operator {name} gives several shapes for several samples") from error

    def _answers(self, given: Mapping[str, Array]) -> Any:
        session = self._opened()
        if not self.node.program:
            return session.run(None, given)
        from backend.runtime.onnx_runtime import run_until

        return run_until(session, given, deadline_of_run())

    def _flowing(self) -> list[tuple[int, OnnxTensor]]:
        return [
            (number, tensor)
            for number, tensor in enumerate(self.node.inputs)
            if tensor is not None and tensor.kind == "flows"
        ]

    def _checked(self, answer: Array, wanted: OnnxTensor, batch: int, device: torch.device) -> torch.Tensor:
        shape = (batch, *wanted.shape)
        if answer.shape != shape or answer.dtype.name != wanted.type:
            raise InputError(
                f"ONNX operator {self.node.operator} gives {answer.dtype} {answer.shape}, it was taken over "
                f"for {wanted.type} {shape}"
            )
        return torch.from_numpy(answer).to(device)

    def program_bytes(self) -> bytes:
        """Empty for a node without one."""
        return _bytes(self.get_buffer(PROGRAM_PLACE)) if self.node.program else b""

    def _opened(self) -> Any:
        """The session, opened again once weights were loaded into this module."""
        weights = dict(self.named_buffers(recurse=False))
        state = tuple((each.data_ptr(), each._version) for each in weights.values())
        if self._session is None or state != self._session_of:
            # Here and not above: most models need no onnxruntime.
            from backend.runtime.onnx_runtime import open_session

            held = {
                number: _bytes(weights[weight_place(number)])
                for number, tensor in enumerate(self.node.inputs)
                if tensor is not None and tensor.kind == "weights"
            }
            program = self.program_bytes()
            model = one_node_model(self.node, held, program)
            if program:
                if not any(program):
                    raise InputError("its program is with the weights of the model, which are not loaded")
                if random := RANDOM_OPERATORS & check_onnx(model).operators.keys():
                    raise InputError(f"its program draws at random, by {min(random)}")
            # One thread: every session has threads of its own, and a model may have hundreds of these.
            self._session = open_session(model, 1)
            self._session_of = state
        return self._session


def _unfilled(tensor: OnnxTensor, batch: int) -> torch.Tensor:
    """Where only shapes are asked for."""
    return torch.empty((batch, *tensor.shape), dtype=torch_type(tensor), device="meta")


def torch_type(tensor: OnnxTensor) -> torch.dtype:
    found: torch.dtype = getattr(torch, tensor.type)
    return found


def _bytes(tensor: torch.Tensor) -> bytes:
    values: Array = tensor.detach().cpu().contiguous().numpy()
    return values.tobytes()
