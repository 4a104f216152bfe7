"""Arrays of other libraries: what they say of themselves, and what they give, out of core as in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tensorstore
import zarr
from marks import mostly_slow, slow
from stores import Counting, check, field
from strategies import BFLOAT16
from zarr.storage import MemoryStore

from quantize import RefusedValuesError, quantize_to_int4, quantize_to_zarr, suggest
from quantize.io import as_source, sources_of
from quantize.numerics.dtypes import dtype_named

SHAPE = (40, 60)
VALUES = field(SHAPE) + np.float32(280)
WHOLE = tuple(slice(0, n) for n in SHAPE)
HIDDEN = VALUES > 300
COUNT = int(HIDDEN.sum())
WHOLE_NUMBERS = VALUES.astype("i2")

# Variables of netCDF4's -----------------------------------------------------------------------------------------------


class Variable:
    """What netCDF4's `Variable` does: it masks and scales what it gives, unless it is told not to."""

    def __init__(self, stored: np.ndarray, **attributes: Any) -> None:
        self.stored, self.own = stored, attributes
        self.shape, self.dtype, self.dimensions = stored.shape, stored.dtype, ("y", "x")
        self.mask = self.scale = True

    def ncattrs(self) -> list[str]:
        return list(self.own)

    def getncattr(self, name: str) -> Any:
        return self.own[name]

    def set_auto_mask(self, on: bool) -> None:
        self.mask = on

    def set_auto_scale(self, on: bool) -> None:
        self.scale = on

    def __getitem__(self, index: Any) -> Any:
        found = self.stored[index]
        if self.mask:
            absent = found == self.own["_FillValue"] if "_FillValue" in self.own else np.zeros(found.shape, bool)
            found = np.ma.masked_array(found, absent | (found > self.own.get("valid_max", np.inf)))
        if self.scale and "scale_factor" in self.own:
            found = found * self.own["scale_factor"]
        return found


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_a_variable_of_netcdf4_says_what_is_missing(mask: bool, dtype: str) -> None:
    stored = np.where(HIDDEN, -9999, VALUES).astype(dtype)
    variable = Variable(stored, units="K", _FillValue=np.dtype(dtype).type(-9999))
    variable.set_auto_mask(mask)
    source = as_source(variable)
    assert (source.missing, source.dimension_names) == (-9999, ("y", "x"))
    assert source.attributes["units"] == "K"
    with pytest.raises(RefusedValuesError, match=f"{COUNT:,} (missing|NaN)"):
        quantize_to_zarr(variable, MemoryStore())
    array = quantize_to_zarr(variable, MemoryStore(), nan_policy="propagate")
    restored = array[...]
    np.testing.assert_array_equal(np.isnan(restored) if dtype == "f4" else restored == -9999, HIDDEN)
    assert array.dimension_names == ("y", "x")


def test_what_a_variable_masks_beside_its_fill_value_is_missing_too() -> None:
    stored = np.where(HIDDEN, 32000, VALUES).astype("i2")
    variable = Variable(stored, _FillValue=np.int16(-9999), valid_max=np.int16(31000))
    array = quantize_to_zarr(variable, MemoryStore(), nan_policy="propagate", missing=-9999)
    np.testing.assert_array_equal(array[...] == -9999, HIDDEN)


@pytest.mark.parametrize("packing", [{}, {"scale_factor": 0.5}], ids=str)
def test_what_a_variable_masks_by_its_bounds_alone_is_missing(packing: dict[str, float]) -> None:
    stored = np.where(HIDDEN, 32000, VALUES).astype("i2")
    variable = Variable(stored, valid_max=np.int16(31000), **packing)
    array = quantize_to_zarr(variable, MemoryStore(), nan_policy="propagate")
    restored = array[...]
    np.testing.assert_array_equal(np.isnan(restored) if packing else restored == 32767, HIDDEN)


def test_a_variable_is_read_as_it_is_stored_and_left_as_it_was() -> None:
    variable = Variable(WHOLE_NUMBERS, scale_factor=0.1)
    source = as_source(variable)
    np.testing.assert_array_equal(source.read(WHOLE), WHOLE_NUMBERS)
    assert variable.scale
    variable.set_auto_scale(False)
    np.testing.assert_array_equal(source.read(WHOLE), WHOLE_NUMBERS)
    assert not variable.scale


# Arrays of other libraries --------------------------------------------------------------------------------------------


class Named:
    """A dtype of another library."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Tensor:
    """A tensor as torch has it: bfloat16 and what has gradients it does not give to NumPy."""

    def __init__(self, values: np.ndarray, grad: bool = False, device: str = "cpu") -> None:
        self.values, self.grad, self.device = values, grad, device
        self.shape, self.dtype = values.shape, Named(f"torch.{values.dtype.name}")

    def __getitem__(self, index: Any) -> "Tensor":
        return Tensor(self.values[index], self.grad, self.device)

    def detach(self) -> "Tensor":
        return Tensor(self.values, False, self.device)

    def cpu(self) -> "Tensor":
        return Tensor(self.values, self.grad)

    def float(self) -> "Tensor":
        return Tensor(self.values.astype("f4"), self.grad, self.device)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if self.device != "cpu":
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if self.values.dtype == BFLOAT16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


class OnDevice:
    """An array as cupy has it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, index: Any) -> "OnDevice":
        return OnDevice(self.values[index])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> np.ndarray:
        return self.values


class Exchanged:
    """An array that is given by DLPack only, and can be counted through."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, Named(values.dtype.name)

    def __len__(self) -> int:
        raise AssertionError("counted entry by entry")

    def __getitem__(self, index: Any) -> "Exchanged":
        return Exchanged(self.values[index])

    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class Whole:
    """An array that gives itself as a whole by one protocol, and says nothing else of itself."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values


class Interfaced(Whole):
    @property
    def __array_interface__(self) -> Any:
        return self.values.__array_interface__


class Converted(Whole):
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


class Capsuled(Whole):
    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class CapsuledElsewhere(Capsuled):
    """On a device, from which it copies itself where it is asked to."""

    def __dlpack__(self, dl_device: Any = None, **options: Any) -> Any:
        if dl_device is None:
            raise BufferError("it is on cuda:0")
        return self.values.__dlpack__(dl_device=dl_device, **options)

    def __dlpack_device__(self) -> Any:
        return (2, 0)


@pytest.mark.parametrize("kind", [Interfaced, Converted, Capsuled, CapsuledElsewhere])
@pytest.mark.parametrize("dtype", ["f4", slow("f2"), slow("i2")])
def test_what_gives_itself_as_a_whole(kind: Any, dtype: str) -> None:
    values = VALUES.astype(dtype)
    check(quantize_to_zarr(kind(values), MemoryStore(), chunks=(7, 8)), values)
    np.testing.assert_array_equal(quantize_to_int4(kind(values)).quantized, quantize_to_int4(values).quantized)
    arrays = sources_of({"a": kind(values), "flags": kind(values > 300)})
    np.testing.assert_array_equal(arrays["a"].read(WHOLE), values)
    np.testing.assert_array_equal(arrays.raw("flags").read(WHOLE), values > 300)


def test_a_class_is_no_array() -> None:
    with pytest.raises(TypeError, match="source is a type, but must be a path"):
        as_source(Converted)


FOREIGN: dict[str, Callable[[np.ndarray], Any]] = {
    "torch": Tensor,
    "torch with gradients": lambda values: Tensor(values, grad=True),
    "torch on a device": lambda values: Tensor(values, device="cuda:0"),
    "cupy": OnDevice,
    "DLPack": Exchanged,
    "tensorstore": tensorstore.array,
    "part of a tensorstore": lambda values: tensorstore.array(np.concatenate([values[:3], values, values]))[3:43],
    "labelled tensorstore": lambda values: tensorstore.array(values)[tensorstore.d[:].label["y", "x"]],
}


@pytest.mark.parametrize(
    "dtype",
    mostly_slow([np.float32, BFLOAT16, np.float16, np.int16, np.uint8], [np.float32, BFLOAT16]),
    ids=lambda d: np.dtype(d).name,
)
@pytest.mark.parametrize("name", FOREIGN)
def test_arrays_of_other_libraries_out_of_core_and_in_memory(name: str, dtype: str) -> None:
    values = np.arange(2400).reshape(SHAPE).astype("u1").astype(dtype)
    if (name, dtype) == ("DLPack", "bfloat16"):
        with pytest.raises(TypeError, match="what Exchanged gave, a Exchanged, cannot be made an array: "):
            quantize_to_zarr(Exchanged(values), MemoryStore())
        return
    foreign = FOREIGN[name](values)
    source = as_source(foreign)
    assert (source.shape, source.dtype) == (SHAPE, np.dtype(dtype))
    assert source.dimension_names == (("y", "x") if name.startswith("labelled") else None)
    check(quantize_to_zarr(foreign, MemoryStore(), chunks=(7, 8)), values)
    np.testing.assert_array_equal(quantize_to_int4(foreign).quantized, quantize_to_int4(values).quantized)


def test_a_tensorstore_of_a_zarr_folder(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "z", data=VALUES, chunks=(7, 8))
    opened = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "z")}}, open=True
    ).result()
    check(quantize_to_zarr(opened, MemoryStore()), VALUES)
    assert suggest(opened).to_json() == suggest(VALUES).to_json()


def test_blocks_of_another_library_in_a_dask_array() -> None:
    lazy = dask.array.from_array(VALUES, chunks=(10, 20)).map_blocks(OnDevice, dtype="f4", meta=np.empty((0, 0), "f4"))
    check(quantize_to_zarr(lazy, MemoryStore(), chunks=(7, 8)), VALUES)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("torch.float32", "f4"),
        ("torch.bfloat16", BFLOAT16),
        ("mlx.core.uint16", "u2"),
        ("torch.complex64", "c8"),
        ("torch.bool", "?"),
        ("torch.qint8", None),
        ("<dtype: 'float32'>", None),
        ("torch.float8_e5m2", None),
    ],
)
def test_dtypes_by_their_names(name: str, dtype: Any) -> None:
    assert dtype_named(Named(name)) == (None if dtype is None else np.dtype(dtype))


@pytest.mark.parametrize("name", ["torch.complex64", "torch.bool", "torch.qint8", "float8"])
def test_dtypes_of_other_libraries_that_hold_no_numbers(name: str) -> None:
    array = Counting(VALUES)
    array.dtype = Named(name)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="is not float16, bfloat16, float32, float64 or an integer"):
        as_source(array)


def test_what_cannot_become_an_array() -> None:
    class Opaque(Counting):
        def __getitem__(self, index: Any) -> Any:
            class Closed:
                def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                    raise RuntimeError("Cannot convert a sparse array to dense automatically.")

            return Closed()

    with pytest.raises(TypeError, match="what Opaque gave, a Closed, cannot be made an array: Cannot convert a sparse"):
        quantize_to_zarr(Opaque(VALUES), MemoryStore())
