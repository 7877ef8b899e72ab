"""Runs ``async def`` tests under trio, on a virtual clock or a slow one where a test asks for it.

Programs that tests start take Ctrl-C as on a terminal: whoever starts the tests in the background of a
shell makes them ignore it, and every program below them too.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import signal
from collections.abc import Generator, Iterator

import pytest
import structlog
import trio
import trio.testing
from hypothesis import HealthCheck, settings

TEST_DEADLINE_S = 300
FAST_EXAMPLES = 40

# For machines that are busy: no deadlines, and the same examples every time.
settings.register_profile(
    "cyxwiz", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fast", parent=settings.get_profile("cyxwiz"), max_examples=FAST_EXAMPLES)

# Tests open files in onnxruntime as users do, without our modules around it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Fewer examples where slow tests are left out."""
    settings.load_profile("fast" if "not slow" in config.option.markexpr else "cyxwiz")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected lives as long as the process: garbage is never sought among it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# Its own choice of traceback, in colour with every local variable, takes a third of a second each.
_LOG = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _LOG])


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that runs within a test sends the log to a stream that is closed with the test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module", autouse=True)
def _garbage_goes_with_its_module() -> Iterator[None]:
    """A chain, a window or a model weighs megabytes, of which the collector sees a few small objects."""
    yield
    gc.collect()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    virtual = pyfuncitem.get_closest_marker("virtual_clock") is not None
    clock = trio.testing.MockClock(autojump_threshold=0) if virtual else None
    if pyfuncitem.get_closest_marker("slow_clock") is not None:
        clock = trio.testing.MockClock(rate=0.01)

    async def run() -> None:
        if virtual:
            await pyfuncitem.obj(**arguments)
            return
        with trio.fail_after(TEST_DEADLINE_S):
            await pyfuncitem.obj(**arguments)

    trio.run(functools.partial(run), clock=clock, strict_exception_groups=True)
    return True
