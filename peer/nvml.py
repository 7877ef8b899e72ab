"""Looks at the machine: GPUs through NVML, memory and processor through the operating system.

A machine without driver or library simply has no GPU. Holds no decisions: see ``peer.devices``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peer.devices import Gpu, Machine

_MAX_NAME = 128


def look_at_machine() -> Machine:
    """Takes some milliseconds; call it off the event loop."""
    gpus, note = _look_at_gpus()
    return Machine(gpus, _cpu_name()[:_MAX_NAME], _ram_bytes(), note)


def _look_at_gpus() -> tuple[tuple[Gpu, ...], str]:
    try:
        import pynvml
    except ImportError:
        return (), "nvidia-ml-py is not installed"
    try:
        with _session(pynvml):
            return tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())), ""
    except pynvml.NVMLError as error:
        return (), str(error)


@contextmanager
def _session(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    try:
        utilization = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:  # virtual GPUs do not report it
        utilization = 0.0
    return Gpu(index, text[:_MAX_NAME], int(nvml.nvmlDeviceGetMemoryInfo(handle).total), utilization)


def _ram_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_name() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name} ({os.cpu_count() or 1} threads)"
