"""Collections of many variables: what one variable promises, all together keep, whatever happens to their run."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collections_of_arrays import JOB, Tree, everything
from marks import slow
from stores import Died, DyingStore, files

from quantize import StoreError, UnfinishedStoreError, open_int4, quantize_dataset
from quantize.reading.dataset import Int4Dataset, KeptArray


def run(source: Any, store: Any, **options: Any) -> Int4Dataset:
    return quantize_dataset(Tree(source) if isinstance(source, dict) else source, store, **{**JOB, **options})


def assert_unfinished(place: Path) -> None:
    """Nothing of it opens as a collection."""
    with pytest.raises((UnfinishedStoreError, FileNotFoundError, StoreError)) as error:
        open_int4(place)
    if (place / "zarr.json").exists():
        assert error.type is UnfinishedStoreError


def check(found: Int4Dataset, arrays: dict[str, np.ndarray]) -> None:
    """Hold a collection to what it was made of."""
    assert sorted(found) == sorted(arrays)
    for name, values in arrays.items():
        array = found[name]
        if isinstance(array, KeptArray):
            assert array.dtype == values.dtype
            assert array[...].dtype == values.dtype
            np.testing.assert_array_equal(array[...], values)
        else:
            np.testing.assert_array_equal(np.isnan(array[...]), np.isnan(values))
            assert np.nanmax(np.abs(array[...] - values)) <= np.max(array.max_error) * (1 + 1e-6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "x"
    check(run(everything(), folder), everything())
    check(open_int4(folder), everything())
    assert run(everything(), folder)["ocean/deep/holes"].nan_code is not None
    return files(folder)


@pytest.mark.parametrize("over", [False, True], ids=["new", "overwriting"])
@pytest.mark.parametrize("torn", [False, True], ids=["clean", "torn"])
@pytest.mark.parametrize("step", [9, slow(1)])
def test_a_death_at_any_change_costs_no_byte(
    tmp_path: Path, whole: dict[str, bytes], torn: bool, over: bool, step: int
) -> None:
    """Before the last change nothing opens; the same call goes on, and what was overwritten is gone."""
    before = everything(7) | {"old/two": np.ones((5, 5)), "gone": np.arange(3.0)}
    if over:
        run(before, tmp_path / "before")
    read = []
    for at in range(0, 400, step):
        shutil.rmtree(tmp_path / "z", ignore_errors=True)
        if over:
            shutil.copytree(tmp_path / "before", tmp_path / "z")
        try:
            run(everything(), DyingStore(tmp_path / "z", at, torn), overwrite=over)
        except Died:
            try:
                found = open_int4(tmp_path / "z")
            except (UnfinishedStoreError, FileNotFoundError):
                pass
            except StoreError:
                assert not (tmp_path / "z/zarr.json").exists()
            else:
                check(found, before if over and at == 0 and torn else everything())
                read.append(at)
            run(everything(), tmp_path / "z", overwrite=(over and at % 2 == 0) or at == 0)
            assert files(tmp_path / "z") == whole, f"change {at}"
        else:
            break
    assert at > 40
    assert len(read) <= 2
