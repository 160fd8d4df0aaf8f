"""What every test of the project and its plugins can use."""

import asyncio
import signal
from collections.abc import Callable, Mapping

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from fusemld.daemon.event_loop import EventLoop

pytest_plugins = ["tests.cluster.fixtures"]

# The same examples every time: what a commit is judged by is no luck. How long one takes says nothing on a machine
# that does other things, too. `--hypothesis-profile search` looks elsewhere each time, and for longer.
settings.register_profile("fusemld", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=5000)
settings.load_profile("fusemld")

# Whoever ends a test run with SIGTERM, as `timeout` does, leaves no more behind than with Ctrl-C: no daemon, no
# cluster.
signal.signal(signal.SIGTERM, signal.default_int_handler)

MODELS = ("plugins/", "tests/acceptance/test_main_job.py", "tests/acceptance/test_readme.py")
"""Where most of the time is spent by models that are trained and served: nearly half of all."""


class Lanes(LoadScopeScheduling):
    """Of two processes, one runs the tests of `MODELS`, one after another; the other one the rest.

    So tests that watch the pace of things do not share the machine with each other.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "models" if nodeid.startswith(MODELS) else "others"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    return Lanes(config, log)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Parts are tested on the event loop that the daemon runs on."""
    return {"fusemld": EventLoop}
