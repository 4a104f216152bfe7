"""One unit: between the parts of what it computes it ends if the run is told to stop."""

from typing import Any

import numpy as np
import pytest

from quantize.calibration import calibrate
from quantize.io import as_source
from quantize.numerics.granularity import PER_TENSOR, PerAxis
from quantize.numerics.scales import Rule, Scale, Scales
from quantize.runtime import units as module
from quantize.runtime.units import StoppedError, Units
from quantize.store.layout import Layout

VALUES = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)


def units_of(rule: Rule) -> Units:
    return Units(as_source(VALUES), Layout(VALUES.shape, VALUES.dtype, VALUES.shape), rule, None)


@pytest.mark.parametrize("what", ["scan", "pack", "scale_and_pack"])
def test_a_unit_in_one_piece_ends_between_its_parts(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(module, "CACHED", VALUES.nbytes // 8)
    units = units_of(Rule.of("minmax", granularity=PER_TENSOR if what != "scale_and_pack" else PerAxis(0)))
    seen = []
    scan_part = Units.scan_part

    def stop_after_three(self: Units, *arguments: Any) -> None:
        seen.append(0)
        if len(seen) == 3:
            self.cache.stop.set()
        scan_part(self, *arguments)

    monkeypatch.setattr(Units, "scan_part", stop_after_three)
    scales = [Scales.one(Scale(1.0, 0), VALUES.shape)] if what == "pack" else []
    with pytest.raises(StoppedError):
        getattr(units, what)(0, *scales, VALUES)
    assert len(seen) == 3


def test_scales_of_many_groups_end_between_two(monkeypatch: pytest.MonkeyPatch) -> None:
    units, seen = units_of(Rule.of("mse", granularity=PerAxis(0))), []
    choose = calibrate.choose

    def counting(rule: Any, rows: Any, histogram: Any, heed: Any) -> Any:
        def heed_then_stop() -> None:
            heed()
            seen.append(0)
            if len(seen) == 5:
                units.cache.stop.set()

        return choose(rule, rows, histogram, heed_then_stop)

    monkeypatch.setattr(calibrate, "choose", counting)
    monkeypatch.setattr(calibrate, "are_short", lambda *_: False)  # as of groups that are long
    with pytest.raises(StoppedError):
        units.scale_and_pack(0, VALUES)
    assert len(seen) == 5
