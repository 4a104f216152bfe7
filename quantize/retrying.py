"""What may fail once and succeed the next time: temporary errors of stores and files, tried again with back-off."""

from __future__ import annotations

import errno
import logging

import tenacity

ATTEMPTS = 6
LONGEST = 8.0  # seconds between two attempts; with all of them an outage of some 15 seconds is bridged

# Of an `OSError`; the others, such as no space left or no permission, are there the next time too.
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
}


def is_temporary(error: BaseException) -> bool:
    """Whether what failed may succeed when it is tried again."""
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in TEMPORARY


# Calls a function until it does not fail temporarily, with random pauses that double; then its own error comes out.
retried = tenacity.retry(
    retry=tenacity.retry_if_exception(is_temporary),
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    before_sleep=tenacity.before_sleep_log(logging.getLogger("quantize"), logging.WARNING),
    reraise=True,
)
