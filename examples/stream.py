"""Data that keep coming: a producer that is killed again and again, and a reader meanwhile. No row is lost, none twice.

The producer is a process of its own, which this one kills as ``kill -9`` does, and starts again.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from quantize import Int4Array, Int4Writer, dequantize_from_int4, open_int4, quantize_to_int4, verify
from quantize.exceptions import StoreError

WIDTH = 256
BLOCK = 32  # rows of a column that share a scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="in all (%(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="of the producer (%(default)s)")
    parser.add_argument("--produce", metavar="STORE", help="be the producer")
    arguments = parser.parse_args()
    if arguments.produce:
        produce(arguments.produce, arguments.rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        watch(Path(folder) / "stream.zarr", arguments.rows, arguments.kills)


def rows(start: int, stop: int) -> np.ndarray:
    """Each follows from its number alone: who reads one knows what it must be."""
    number = np.arange(start + 1, stop + 1)[:, np.newaxis]
    return np.sin(number * np.arange(1, WIDTH + 1) / 50).astype(np.float32)


def batches(first: int, last: int) -> Iterator[np.ndarray]:
    """What a sensor, a model or a queue gives: batches of any length, from some row on."""
    lengths = np.random.default_rng(first)
    while first < last:
        until = min(first + int(lengths.integers(1, 500)), last)
        yield rows(first, until)
        first = until


def produce(store: str, total: int) -> None:
    with Int4Writer(store, (None, WIDTH), "float32", blocks=(BLOCK, 1), chunks=(1024, -1), commit_every=1) as writer:
        for batch in batches(writer.committed, total):
            writer.write(batch)


def watch(store: Path, total: int, kills: int) -> None:
    array: Int4Array | None = None
    random = np.random.default_rng(0)
    reads, lengths, killed = 0, set(), 0
    expected(0, BLOCK)  # compiles what it takes
    while array is None or len(array.refresh()) < total:
        goal = (0 if array is None else len(array)) + total // (kills + 2)
        command = [sys.executable, __file__, "--produce", str(store), "--rows", str(total)]
        producer = subprocess.Popen(command)
        while producer.poll() is None:
            array = opened(store) if array is None else array.refresh()
            if array is None:
                time.sleep(0.01)
                continue
            check(array, int(random.integers(len(array))))
            reads += 1
            lengths.add(len(array))
            if killed < kills and len(array) >= goal:
                producer.kill()
                killed += producer.wait() != 0
                print(f"killed, as its exit code {producer.returncode} says: {len(array.refresh()):,} rows are safe")
        if producer.returncode > 0:
            raise SystemExit("the producer failed")
    for first in range(0, total, BLOCK):
        check(array, first)
    print(f"{len(array):,} rows, each as it must be: none is lost, none is there twice")
    print(f"{reads:,} reads meanwhile, of {len(lengths):,} lengths, all right")
    print(verify(store))


def opened(store: Path) -> Int4Array | None:
    """None while nothing is committed."""
    try:
        return open_int4(store)
    except (FileNotFoundError, StoreError):
        return None


def check(array: Int4Array, row: int) -> None:
    """Compare the block that holds a row with what the functions in memory give for it, bit for bit."""
    first = row // BLOCK * BLOCK
    last = min(first + BLOCK, len(array))
    np.testing.assert_array_equal(array[first:last], expected(first, last))


def expected(first: int, last: int) -> np.ndarray:
    codes, scale, zero_point = quantize_to_int4(rows(first, last), blocks=(BLOCK, 1))
    return dequantize_from_int4(codes, scale, zero_point, blocks=(BLOCK, 1))


if __name__ == "__main__":
    main()
