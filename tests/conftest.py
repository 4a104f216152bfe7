import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline: the first example of a test may compile a kernel.
settings.register_profile("quantize", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quantize")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes that the tests run in: this one alone, which starts at once, where single files are asked for.

    Else one for each processor, up to four: more would only compile the same kernels at the same time.
    """
    return 0 if any(".py" in argument for argument in config.args) else min(os.cpu_count() or 1, 4)
