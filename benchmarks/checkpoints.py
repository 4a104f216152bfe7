"""A checkpoint of many small tensors, as one collection: what each costs beside its kernels.

Of 62 tensors 37 are matrices of 64 x 512 that are quantized in blocks of 32, and 25 vectors that are kept; the others
have as many times more. The kernels are those of the same matrices in memory, one after the other. Times are of one
process, on two workers, each run in a fresh folder; sizes take turns.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import numpy as np

from quantize import quantize_dataset, quantize_to_packed_int4

from .floors import THREADS
from .measuring import interleaved, ratio, timed, timed_in_folder
from .tables import Table, at_most, verdict

SHARE = 62  # tensors, of which `KEPT` are kept
KEPT = 25
BLOCKS = (1, 32)
ALLOWED = 248, 3.0  # tensors, and seconds that they may take above their kernels
MOST_GROWTH = 1.25  # times the time that a tensor of the smallest checkpoint takes, for one of the largest
SIZES = {False: (62, 248, 992), True: (62,)}
REPEATS = {False: 3, True: 1}


def run(quick: bool) -> list[Table]:
    """The table of this section."""
    sizes = SIZES[quick]
    checkpoints = {count: checkpoint(count) for count in sizes}
    cases = {f"{count}": timed_in_folder(partial(written, checkpoints[count])) for count in sizes}
    cases |= {f"{count} kernels": timed(partial(kernels, checkpoints[count])) for count in sizes}
    found = interleaved(cases, REPEATS[quick])
    rows = []
    for count in sizes:
        seconds, own = found[f"{count}"], found[f"{count} kernels"]
        above = median(whole - part for whole, part in zip(seconds, own, strict=True))
        count_allowed, allowed = ALLOWED
        growth = ratio(seconds, found[f"{sizes[0]}"]) * sizes[0] / count
        rows.append(
            {
                "tensors": count,
                "kept": count * KEPT // SHARE,
                "s": median(seconds),
                "kernels, s": median(own),
                "above, s": above,
                "above at most": allowed if count == count_allowed else "",
                "in it": verdict(above <= allowed) if count == count_allowed else "",
                "ms a tensor": 1e3 * above / count,
                **at_most(growth, MOST_GROWTH if count == sizes[-1] else None),
            }
        )
    note = "The ratio is of the time of a tensor to that in the smallest checkpoint."
    return [Table("A checkpoint of small tensors", rows, (note,))]


def checkpoint(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    kept = count * KEPT // SHARE
    found = {f"layer.{k}.weight": random.standard_normal((64, 512), np.float32) for k in range(count - kept)}
    return found | {f"layer.{k}.bias": random.standard_normal(512, np.float32) for k in range(kept)}


def written(tensors: dict[str, np.ndarray], folder: str) -> None:
    quantize_dataset(tensors, folder, blocks=BLOCKS, workers=THREADS)


def kernels(tensors: dict[str, np.ndarray]) -> None:
    for values in tensors.values():
        if values.ndim == len(BLOCKS):
            quantize_to_packed_int4(values, blocks=BLOCKS)
