import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from zarr.storage import MemoryStore

from quantize.pipeline import quantize_to_zarr
from quantize.quality.choices import Choice, Comparison
from quantize.quality.figures import ErrorFigures
from quantize.quality.report.verdict import advice, verdict_of

FIGURES = ErrorFigures(
    1000, 0, 0, 0, 0.0, 0.2, 0.25, 0.5, (3,), 20.0, 0.5, 1.0, 0, 0, (0,) * 15 + (1000,), 2.5
)  # fmt: skip


def said(figures: ErrorFigures, comparison: Comparison | None = None, **options: Any) -> tuple[str, str]:
    array = quantize_to_zarr(np.arange(1000).astype(options.pop("dtype", np.float32)), MemoryStore(), **options)
    verdict = verdict_of(array, figures, comparison)
    return verdict.word, " ".join([verdict.headline, *verdict.sentences])


def choice(label: str, sqnr_db: float, bits: float = 4.0, current: bool = False) -> Choice:
    return Choice(label, label, None, sqnr_db, bits, 3.0, 1.0, 0.0, f"quantize run {label}", current)


def compared(*rows: Choice, best: int) -> Comparison:
    return Comparison(rows, rows[best], "because", 10, 10)


def test_what_a_run_would_warn_of_is_never_good() -> None:
    array = quantize_to_zarr(np.arange(1000, dtype=np.float32), MemoryStore())
    verdict = verdict_of(array, replace(FIGURES, sqnr_db=60), None, "the data hold -9999")
    assert (verdict.word, verdict.sentences[0]) == ("doubtful", "The data hold -9999.")


@pytest.mark.parametrize(
    ("sqnr_db", "word"),
    [(30, "good"), (18, "good"), (17.9, "fair"), (12, "fair"), (11.9, "coarse"), (-5, "coarse"), (-math.inf, "coarse")],
)
def test_the_word_goes_by_the_sqnr(sqnr_db, word):
    assert said(replace(FIGURES, sqnr_db=sqnr_db))[0] == word


def test_a_typical_error_is_put_beside_the_values():
    assert "A typical error (RMS) is 0.25: 10 % of how much the values themselves vary" in said(FIGURES)[1]
    assert "standard deviation is 2.5." in said(FIGURES)[1]
    assert "the values do not vary at all" in said(replace(FIGURES, sqnr_db=-math.inf))[1]


def test_the_largest_errors_are_put_beside_half_a_step():
    assert "No value is off by more than half a step (0.5); the largest error is 0.5." in said(FIGURES)[1]
    assert "half a step (0.5), but for rounding to whole numbers;" in said(FIGURES, dtype=np.int32)[1]
    rounded = said(replace(FIGURES, max_error=0.5000004, largest_in_range=1.0000008))[1]
    assert "half a step (0.5), but for rounding to float32; the largest error is 0.5." in rounded
    clipped = said(replace(FIGURES, saturated=20, max_error=9.0))[1]
    assert "Mind the outliers: 20 values (2.00 %) lie beyond what the 16 levels reach" in clipped
    assert "errors up to 9. All others are off by no more than half a step (0.5)." in clipped


def test_what_is_wrong_comes_before_all_else():
    word, text = said(replace(FIGURES, outside=3, mismatched=1, sqnr_db=30))
    assert word == "wrong"
    assert "3 values are further off" in text
    assert "1 values are missing on one side only" in text
    assert "quantize verify STORE SRC" in text


def test_exact_and_empty_need_no_grade():
    assert said(replace(FIGURES, max_error=0.0, rmse=0.0, sqnr_db=math.inf))[0] == "exact"
    assert said(replace(FIGURES, count=0, max_error=0.0, sqnr_db=math.nan))[0] == "empty"


@pytest.mark.parametrize(("bits", "shown"), [(2.5, "2.50 bits"), (0.0123, "0.012 bits"), (14.0, "what exceeds 4 is")])
def test_the_size_is_told_in_bits_a_value(bits, shown):
    assert shown in said(replace(FIGURES, bits_per_value=bits))[1]


def test_a_better_choice_is_named_only_if_it_is_worth_it():
    here = choice("minmax", 13.0, current=True)
    better = advice(compared(here, replace(choice("mse", 19.0), compressed_bits_per_value=3.6), best=1))
    assert "would do better: mse gives 19.0 dB instead of 13.0 dB, at 3.60 bits" in better
    assert "3.60 bits a value, compressed, instead of 3.00." in better
    assert "None of the other choices" in advice(compared(here, choice("mse", 13.5), best=0))
    assert "None of the other choices" in advice(compared(here, best=0))
    assert "mse gives exact instead of" in advice(compared(here, choice("mse", math.inf), best=1))
    assert advice(None) == ""


def test_a_choice_that_is_dearer_and_better_is_called_so():
    here, cheap = choice("mse, axis 0", 20.0, 4.5, current=True), choice("mse", 17.0)
    assert "It is 3.0 dB better than mse, which is recommended for being cheaper by 0.5 bits" in advice(
        compared(here, cheap, best=1)
    )
    finest = choice("mse, axis 1", 25.0, 5.0)
    assert "The finest of those tried is mse, axis 1, with 25.0 dB at 3.00 bits a value, compressed." in advice(
        compared(here, cheap, finest, best=1)
    )
