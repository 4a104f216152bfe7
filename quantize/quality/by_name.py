"""What is found of each variable of a collection, by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class ByName(Mapping[str, T]):
    """A mapping of the names of variables to what was found of each."""

    def __init__(self, variables: Mapping[str, T]) -> None:
        self.variables = dict(variables)

    def __getitem__(self, name: str) -> T:
        return self.variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)
