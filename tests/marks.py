"""Parameters of tests that only the slow run tries."""

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    if getattr(values[0], "__name__", "").startswith("test_"):
        raise TypeError(f"{values[0].__name__} would be no test any more: slow() is for parameters, a test is marked")
    return pytest.param(*values, marks=pytest.mark.slow)


def mostly_slow(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """All values, of which the quick run tries some."""
    return [value if value in quick else slow(value) for value in values]


def combined(quick: list[tuple[Any, ...]], *values: Iterable[Any]) -> list[Any]:
    """All combinations, of which the quick run tries some."""
    return [case if case in quick else slow(*case) for case in itertools.product(*values)]
