"""Which devices a peer offers and which job holds which. Pure; ``peer.nvml`` looks at the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from p2p.jobs import DeviceKind
from peer.errors import DeviceError

MAX_SHARES = 16
MAX_OFFERED = 64
"""That a peer's record holds."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine. ``index`` is its number for the driver and for torch."""

    index: int
    name: str
    memory_bytes: int
    utilization: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine has."""

    gpus: tuple[Gpu, ...]
    cpu_name: str
    ram_bytes: int
    note: str = ""
    """Why no GPU was found, for a person."""


@dataclass(frozen=True, slots=True)
class OfferedDevice:
    """``torch_name`` as a worker is told: cpu, cuda:0."""

    kind: DeviceKind
    name: str
    memory_bytes: int
    torch_name: str
    shares: int = 1
    """It is one of so many equal parts of a device, each for one job or model."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is offered, and one line that says so."""

    devices: tuple[OfferedDevice, ...]
    text: str


def select_devices(flag: str, machine: Machine, shares: int = 1) -> Selection:
    """What ``--gpus all|none|0,2`` offers of a machine, least-utilized GPU first, each in so many shares.

    A machine without GPU, or told to offer none, offers its CPU. Raises DeviceError.
    """
    whole = _whole_devices(flag, machine)
    if not 1 <= shares <= MAX_SHARES or shares * len(whole.devices) > MAX_OFFERED:
        found = f"{len(whole.devices)} devices in {shares} shares"
        raise DeviceError(f"{found}, allowed are 1 to {MAX_SHARES} shares, {MAX_OFFERED} together")
    if shares == 1:
        return whole
    parts = tuple(
        replace(device, memory_bytes=device.memory_bytes // shares, shares=shares)
        for _ in range(shares)
        for device in whole.devices
    )
    return Selection(parts, f"{whole.text}, each in {shares} shares")


def ram_of_each(devices: Sequence[OfferedDevice], machine: Machine) -> int:
    """Bytes for one job: with shares, those of jobs beside it on the same device are not its own."""
    return machine.ram_bytes // max(device.shares for device in devices)


def _whole_devices(flag: str, machine: Machine) -> Selection:
    wanted = _wanted(flag, machine.gpus)
    if not wanted:
        reason = "--gpus none" if flag == "none" else f"no GPU found ({machine.note or 'none installed'})"
        cpu = OfferedDevice(DeviceKind.CPU, machine.cpu_name, machine.ram_bytes, "cpu")
        return Selection((cpu,), f"{reason}: offering the CPU, {machine.cpu_name}")
    ordered = sorted(wanted, key=lambda gpu: (gpu.utilization, gpu.index))
    names = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in ordered)
    return Selection(tuple(_offered(gpu) for gpu in ordered), f"offering GPU {names}")


def _wanted(flag: str, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    if flag == "all":
        return tuple(gpus)
    if flag == "none":
        return ()
    try:
        indices = tuple(int(part) for part in flag.split(","))
    except ValueError:
        raise DeviceError(f"--gpus {flag!r}, allowed all, none, or numbers such as 0,2") from None
    if len(set(indices)) != len(indices):
        raise DeviceError(f"--gpus {flag!r} names a GPU twice")
    by_index = {gpu.index: gpu for gpu in gpus}
    missing = [index for index in indices if index not in by_index]
    if missing:
        present = ", ".join(map(str, sorted(by_index))) or "none"
        raise DeviceError(f"--gpus {flag!r}: GPU {missing[0]} is not there, present: {present}")
    return tuple(by_index[index] for index in indices)


def _offered(gpu: Gpu) -> OfferedDevice:
    return OfferedDevice(DeviceKind.CUDA, gpu.name, gpu.memory_bytes, f"cuda:{gpu.index}")


@dataclass(frozen=True, slots=True)
class DeviceLeases:
    """Who holds which of ``count`` devices, by position in the offer. One holder for each device."""

    count: int
    holders: Mapping[int, str] = field(default_factory=dict)

    def acquire(self, holder: str, wanted: Sequence[int]) -> DeviceLeases:
        """All of ``wanted`` or none. Raises DeviceError, naming the first that cannot be had."""
        for device in wanted:
            if not 0 <= device < self.count:
                raise DeviceError(f"device {device}, offered 0 to {self.count - 1}")
            if self.holders.get(device, holder) != holder:
                raise DeviceError(f"device {device} is held by job {self.holders[device][:8]}")
        return replace(self, holders={**self.holders, **dict.fromkeys(wanted, holder)})

    def release(self, holder: str) -> DeviceLeases:
        """Gives back all that ``holder`` has."""
        kept = {device: name for device, name in self.holders.items() if name != holder}
        return replace(self, holders=kept)

    @property
    def running(self) -> int:
        return len(self.holders)

    def least_utilized(self, utilization: Sequence[float]) -> int:
        """The device for work that needs no lease: a free one before a held one, then the idlest."""
        return min(
            range(self.count), key=lambda device: (device in self.holders, utilization[device], device)
        )
