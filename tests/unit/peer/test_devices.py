from __future__ import annotations

import pytest

from p2p.jobs import DeviceKind
from peer.devices import MAX_OFFERED, DeviceLeases, Gpu, Machine, ram_of_each, select_devices
from peer.errors import DeviceError
from peer.hosting import MAX_HOSTED

GPUS = (
    Gpu(0, "busy card", 8 << 30, 0.9),
    Gpu(1, "idle card", 8 << 30, 0.1),
    Gpu(2, "half card", 16 << 30, 0.5),
)
RICH = Machine(GPUS, "a processor", 64 << 30)
POOR = Machine((), "a processor", 8 << 30, "driver not found")


def test_all_offers_every_gpu_with_the_least_utilized_first() -> None:
    selection = select_devices("all", RICH)
    assert [device.torch_name for device in selection.devices] == ["cuda:1", "cuda:2", "cuda:0"]
    assert selection.devices[0].kind is DeviceKind.CUDA


def test_numbers_offer_only_those_gpus() -> None:
    assert [device.name for device in select_devices("0,2", RICH).devices] == ["half card", "busy card"]


@pytest.mark.parametrize(("flag", "machine"), [("none", RICH), ("all", POOR)])
def test_without_a_gpu_the_cpu_is_offered_and_the_text_says_so(flag: str, machine: Machine) -> None:
    selection = select_devices(flag, machine)
    assert [device.torch_name for device in selection.devices] == ["cpu"]
    assert "offering the CPU" in selection.text
    assert flag == "none" or "driver not found" in selection.text


def test_in_shares_each_device_is_offered_so_often_with_its_part_of_the_memory() -> None:
    selection = select_devices("0,2", RICH, 2)
    assert [
        (device.torch_name, device.memory_bytes >> 30, device.shares) for device in selection.devices
    ] == [
        ("cuda:2", 8, 2),
        ("cuda:0", 4, 2),
        ("cuda:2", 8, 2),
        ("cuda:0", 4, 2),
    ]
    assert selection.text.endswith("each in 2 shares")
    assert [device.memory_bytes >> 30 for device in select_devices("all", POOR, 4).devices] == [2] * 4


@pytest.mark.parametrize(("flag", "shares", "gigabytes"), [("all", 1, 64), ("0", 4, 16), ("none", 2, 32)])
def test_a_job_on_a_share_may_count_on_its_part_of_the_ram(flag: str, shares: int, gigabytes: int) -> None:
    assert ram_of_each(select_devices(flag, RICH, shares).devices, RICH) == gigabytes << 30


@pytest.mark.parametrize("shares", [0, 17])
def test_shares_are_bounded(shares: int) -> None:
    with pytest.raises(DeviceError, match=f"3 devices in {shares} shares, allowed are 1 to 16"):
        select_devices("all", RICH, shares)


def test_no_more_is_offered_than_a_record_holds() -> None:
    many = Machine(tuple(Gpu(index, "card", 8 << 30, 0.0) for index in range(8)), "a processor", 64 << 30)
    assert len(select_devices("all", many, 8).devices) == 64
    with pytest.raises(DeviceError, match="64 together"):
        select_devices("all", many, 9)


@pytest.mark.parametrize(
    ("flag", "words"), [("0,7", "GPU 7 is not there"), ("1,1", "twice"), ("fast", "allowed all, none")]
)
def test_a_flag_that_names_what_is_not_there_is_refused(flag: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        select_devices(flag, RICH)


def test_each_device_that_may_be_offered_can_serve_a_model() -> None:
    assert MAX_HOSTED >= MAX_OFFERED


def test_devices_are_leased_all_or_none() -> None:
    leases = DeviceLeases(3).acquire("first", (1,))
    with pytest.raises(DeviceError, match="device 1 is held by job first"):
        leases.acquire("second", (0, 1))
    assert leases.acquire("second", (0, 2)).running == 3
    assert leases.holders == {1: "first"}


def test_a_released_device_can_be_leased_again() -> None:
    leases = DeviceLeases(1).acquire("first", (0,)).release("first").acquire("second", (0,))
    assert leases.holders == {0: "second"}


def test_a_device_outside_the_offer_is_refused() -> None:
    with pytest.raises(DeviceError, match="device 2, offered 0 to 1"):
        DeviceLeases(2).acquire("job", (2,))


def test_work_without_lease_goes_to_a_free_device_before_an_idle_one() -> None:
    leases = DeviceLeases(3).acquire("job", (1,))
    assert leases.least_utilized([0.9, 0.0, 0.5]) == 2
