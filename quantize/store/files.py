"""Files and folders as a store in a folder needs them: sizes, parts of files, locks, and what the disk holds."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zarr.abc.store import RangeByteRequest, SuffixByteRequest

from ..exceptions import StoreError
from ..numerics.names import ZIP

try:
    import fcntl
except ImportError:  # a system without it
    fcntl = None  # type: ignore[assignment]

BINARY = getattr(os, "O_BINARY", 0)  # or Windows would take some bytes for ends of lines

LOCK_TOLD = 5.0  # seconds that a run waits for another's lock, after which it says so
LOCK_WAIT = 60.0  # seconds that it waits at most: longer than the attempts of one write take
LOCK_PAUSE, LONGEST_LOCK_PAUSE = 0.001, 0.1  # seconds between two looks at a lock: at first, and at most

Part = RangeByteRequest | SuffixByteRequest

logger = logging.getLogger("quantize")


def file_size(path: str) -> int | None:
    """Bytes of a file, behind links too; None where there is none, or a folder.

    Raises
    ------
    ValueError
        If it is a pipe, a device, a socket, or a link that leads nowhere but to itself.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link that leads to itself") from error
        raise
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    if stat.S_ISDIR(found.st_mode):
        return None
    raise ValueError("it is a pipe, a socket or a device, and no file")


def file_bytes(path: str, part: Part | None) -> bytes | None:
    """Part of the bytes of a file, or all, of one moment; None where there is none.

    As the store's own, with half the calls of the system: of a small chunk these take more time than its bytes.
    """
    try:
        number = os.open(path, os.O_RDONLY | BINARY)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    try:
        size = os.fstat(number).st_size
        start, stop = (0, size) if part is None else ends(part, size)
        if start:
            os.lseek(number, start, os.SEEK_SET)
        found = b""
        while start < stop and (more := os.read(number, stop - start)):  # the system gives 2 GiB at a time at most
            found += more
            start += len(more)
        return found
    finally:
        os.close(number)


def ends(part: Part, size: int) -> tuple[int, int]:
    """Where a part of so many bytes begins and ends, as far as they go."""
    if isinstance(part, SuffixByteRequest):
        return max(0, size - part.suffix), size
    return min(part.start, size), min(part.end, size)


def is_archive(path: Path) -> bool:
    """Whether there is a zip archive at a path, by its first bytes."""
    if not os.path.isfile(path):
        return False
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def flush_file(path: str | Path) -> None:
    """Have the disk hold a file or a folder, unless another run has removed or renamed it."""
    try:
        number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def locked_folder(path: str, shared: bool, wait: float | None) -> Iterator[bool]:
    """As `Keys.locked`, of a folder."""
    number = open_locked(path, shared, LOCK_WAIT if wait is None else wait)
    try:
        yield number is not None
    finally:
        if number is not None:
            fcntl.flock(number, fcntl.LOCK_UN)  # which closing it alone does not do where a fork has it too
            os.close(number)


def open_locked(path: str, shared: bool, wait: float) -> int | None:
    """A folder, opened and locked; None where there is none, or no locks."""
    if fcntl is None:
        return None
    operation = fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    began, told, pause = time.monotonic(), False, LOCK_PAUSE
    while True:
        try:
            number = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # another run has removed it, which the look that follows will show
            return None
        try:
            fcntl.flock(number, operation)
            if os.path.samestat(os.fstat(number), os.stat(path)):
                return number
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(number)
            return None
        except BaseException:
            os.close(number)
            raise
        os.close(number)
        waited = time.monotonic() - began
        if waited > wait:
            raise StoreError(
                f"{path} has been locked for {waited:.0f} s by another run, which may be stopped: let that go on or "
                "end it (fuser names its process), and run again"
            )
        if waited > LOCK_TOLD and not told:
            told = True
            logger.warning("waiting for another run that has locked %s", path)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_LOCK_PAUSE)
