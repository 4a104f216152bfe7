"""The client of a cluster and its connection to the scheduler. What is asked of it ends, at the latest with that."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, NoReturn, TypeVar

from ..exceptions import WorkersError
from .pool import TICK

Answer = TypeVar("Answer")


def current_client() -> Any:
    """The user's `distributed.Client`, if there is one that is not closed; the package is not imported to find out."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        client = distributed.Client.current()
    except ValueError:
        return None
    return None if client.status == "closed" else client


class NoAnswer(WorkersError):
    """A question to a scheduler that is not worth waiting for any more."""


def in_a_thread(call: Callable[[], Answer], look: Callable[[], None]) -> Answer:
    """What a call gives, made in a thread of its own, which is left to itself once `look`, called each tick, raises."""
    future: Future[Answer] = Future()

    def make() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=make, daemon=True).start()
    while not wait([future], TICK).done:
        look()
    return future.result()


class Connection:
    """The connection of a client to its scheduler, as it is now: one that is made again later is another.

    With it all tasks are lost that were under way, whoever begins them anew.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.comm = client.scheduler_comm
        self.address = str(getattr(client.scheduler, "address", "of the cluster"))
        self.check()

    @classmethod
    def current(cls) -> Connection:
        """That of the user's client.

        Raises
        ------
        WorkersError
            If there is none.
        """
        client = current_client()
        if client is None:
            raise WorkersError("the Client of the cluster was closed. Run again to go on, with another or without")
        return cls(client)

    def check(self, cause: BaseException | None = None) -> None:
        """See whether it still stands.

        Raises
        ------
        WorkersError
            If it was lost, from the `cause` that has shown it.
        """
        status, comm = self.client.status, self.client.scheduler_comm
        if status in ("closing", "closed"):
            raise WorkersError(
                f"the Client of the scheduler {self.address} was closed. Run again to go on, with another or without"
            ) from cause
        if status != "running" or comm is None or comm is not self.comm or comm.closed():
            self.lost(cause)

    def lost(self, cause: BaseException | None) -> NoReturn:
        raise WorkersError(
            f"the connection to the scheduler {self.address} was lost, and with it the tasks under way. Run again to "
            "go on, once there is a scheduler, or without one"
        ) from cause

    def answered(self, call: Callable[[], Answer], going: Callable[[], bool] = lambda: True) -> Answer:
        """What a call of the client's gives, which is made in a thread of its own.

        That thread is left to itself when the connection is lost, a signal comes, or there is nothing `going` on that
        is worth waiting for: the client itself may wait for ever.

        Raises
        ------
        WorkersError
            If the connection was lost before the answer came.
        NoAnswer
            If nothing was `going` on.
        """

        def look() -> None:
            self.check()
            if not going():
                raise NoAnswer(f"the scheduler {self.address} does not answer")

        try:
            return in_a_thread(call, look)
        except WorkersError:
            raise
        except OSError as error:
            self.check(error)
            self.lost(error)  # seen by this call before the client has seen it
        except Exception as error:
            self.check(error)
            raise

    def threads(self) -> dict[str, int]:
        """How many threads each worker of the cluster has, by its address."""
        found: dict[str, int] = self.answered(self.client.nthreads)
        return found
