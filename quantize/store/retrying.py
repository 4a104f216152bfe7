"""What may fail once and succeed the next time: temporary errors of stores and files, tried again with back-off.

And errors of the system that name no file, named.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import tenacity

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 6  # calls at most, the first one among them
LONGEST_PAUSE = 8.0  # seconds between two attempts at most; all pauses together bridge an outage of some 15 seconds

# Numbers of an `OSError` that may not come the next time; others, such as no space left or no permission, do.
TEMPORARY = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
    getattr(errno, "EREMOTEIO", errno.EIO),  # what s3fs gives for an error within the server
}

# Errors of libraries that reach stores over a network, and Python's own that they are raised as. Of an error's classes,
# from its own upwards, the first that is named here counts.
FOREIGN: dict[str, type[OSError]] = {
    "botocore.exceptions.ConnectionError": ConnectionError,
    "botocore.exceptions.HTTPClientError": ConnectionError,
    "botocore.exceptions.BotoCoreError": OSError,
    "aiohttp.client_exceptions.ClientConnectionError": ConnectionError,
    "aiohttp.client_exceptions.ClientPayloadError": ConnectionError,
    "aiohttp.client_exceptions.ClientError": OSError,
    "obstore.exceptions.BaseError": OSError,  # obstore has tried again by itself
}


def is_temporary(error: BaseException) -> bool:
    """Whether what failed may succeed when it is tried again."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in TEMPORARY


def translated(call: Callable[P, T]) -> Callable[P, T]:
    """The function, whose errors from libraries that reach stores over a network come out as Python's own."""

    @functools.wraps(call)
    def translating(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
            own = next((FOREIGN[name] for name in names if name in FOREIGN), None)
            if own is None:
                raise
            raise own(str(error).partition("\n\nDebug source")[0]) from error

    return translating


AGAIN = tenacity.Retrying(
    retry=tenacity.retry_if_exception(is_temporary),
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    before_sleep=tenacity.before_sleep_log(logging.getLogger("quantize"), logging.WARNING),
    reraise=True,
)


def retried(call: Callable[P, T]) -> Callable[P, T]:
    """The function, called again while its error may pass, after random pauses that grow; the last error comes out."""
    once = translated(call)

    @functools.wraps(call)
    def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return once(*args, **kwargs)
        except Exception as error:
            if not is_temporary(error):
                raise
            failed = [error]

        @functools.wraps(call)
        def attempt() -> T:
            if failed:  # the first attempt was made without tenacity, which takes longer than most calls
                raise failed.pop()
            return once(*args, **kwargs)

        return AGAIN.copy()(attempt)

    return patient


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An error of the system that names no file gets the name of this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
