import os

import pytest
from hypothesis import HealthCheck, settings
from numba.core import event

from quantize.kernels import SOURCE

collect_ignore = ["reading/backends_of_xarray.py"]  # xarray's own tests, which one of ours runs

# No deadline: the first example of a test may compile a kernel. Without the slow tests, fewer examples too.
for name, examples in (("quick", 15), ("whole", 100)):
    settings.register_profile(name, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow])


class OneSignature(event.Listener):
    """Refuses a second signature of a compiled loop: two processes that write both may swap them (numba#4807)."""

    def on_start(self, started: event.Event) -> None:
        loop, arguments = started.data["dispatcher"], started.data["args"]
        if loop.py_func.__name__.endswith(f"_{SOURCE}") and loop.signatures:
            raise AssertionError(f"{loop} is compiled for {arguments} too, and has {loop.signatures}")

    def on_end(self, ended: event.Event) -> None:
        pass


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("quick" if config.option.markexpr == "not slow" else "whole")
    event.register("numba:compile", OneSignature())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes that the tests run in: this one alone, which starts at once, where single files are asked for.

    Else one for each processor, up to four: more would only compile the same kernels at the same time.
    """
    return 0 if any(".py" in argument for argument in config.args) else min(os.cpu_count() or 1, 4)
