"""The right of one task to write into a place: looked at before each write, and after the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..exceptions import StoreError
from .keys import Keys


class WriteGuard:
    """Asks `stands` whether there still is something to write; that raises where another job has taken the place.

    A run that overwrites first marks the place, waits for who has it locked, and then deletes what is there. So where
    nothing can be locked, what was put between the last look that found no mark and the first that found one may be
    left: `written`, the tags of its keys. Stores that take conditions let a write replace nothing of the other's. Where
    `may_be_part` says so, another run of the same job may have made it part of the whole, and it stays.
    """

    def __init__(
        self, keys: Keys, folder: str, stands: Callable[[], bool], may_be_part: Callable[[], bool] | None = None
    ) -> None:
        self.keys, self.folder, self._stands, self._may_be_part = keys, folder, stands, may_be_part
        self.written: dict[str, Any] = {}

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Around a write: whether there is something to write, as `stands` says and raises."""
        with self.keys.locked(self.folder, shared=True) as locked:
            yield self.stands()
        if locked:
            self.written.clear()

    def stands(self) -> bool:
        """Whether there still is something to write: not if another run of the same job has sealed all.

        Raises
        ------
        StoreError
            If another job has taken the place; what this task wrote last is gone then.
        """
        try:
            found = self._stands()
        except StoreError:
            if self._may_be_part is not None and self._may_be_part():
                self.written.clear()
            for key, tag in self.written.items():
                if self.keys.still(key, tag):
                    self.keys.delete(key)
            raise
        self.written.clear()
        return found

    def put(self, key: str, data: bytes | np.ndarray) -> None:
        """Set a key that is mostly absent, as `Keys.put` does; of an array the next one may be in the same buffer."""
        tag = self.keys.put(key, data, self.stands)
        if tag is not None:
            self.written[key] = tag

    def create(self, key: str, document: bytes) -> None:
        """Set a document unless it is there; where the store takes conditions another in its place is replaced."""
        if self.keys.conditional:
            self.put(key, document)
        else:
            self.keys.set_new(key, document)
