"""Whole datasets and checkpoints: what is left of the same file by what others do with it.

Bits are those of the files, each as its writer makes them: Zarr's chunks in zstd, tensors of GGUF and safetensors as
they are. Scales count. Missing values count as values.

NCO and llama.cpp are not run. `ncpdq` packs a field into integers by its least and greatest value: that is what xarray
writes here, by the same arithmetic. GGUF's types are those of the package `gguf`, llama.cpp's own code in Python, which
writes and reads the file too, and Q4_K that of `peers.q4_k`.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
import xarray as xr
from numcodecs import Zstd

from quantize import Int4Dataset, quantize_dataset

from .fidelity import Fidelity
from .peers import gguf
from .samples import network_weights, outlier_embeddings
from .tables import ABSENT, Table, verdict

MB = 1e6


def run(quick: bool) -> list[Table]:
    """The tables of this section."""
    with TemporaryDirectory() as folder:
        return [*of_weather(Path(folder), quick), *of_checkpoint(Path(folder), quick)]


def decibels(values: np.ndarray, restored: np.ndarray) -> float:
    """Signal to noise of the values that are not missing; infinite where none differs."""
    there = np.isfinite(values)
    x, y = (array[there].astype(np.float64) for array in (values, restored))
    noise = float(np.mean(np.square(x - y)))
    return float(10 * np.log10(np.var(x) / noise)) if noise else np.inf


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


# Weather --------------------------------------------------------------------------------------------------------------

FIELDS = ("t2m", "sst", "msl", "tp", "u10")
DIMS = ("time", "latitude", "longitude")
BY_FIELD: dict[str, dict[str, Any]] = {"tp": {"blocks": {"longitude": 32}, "scale_method": "mse"}}
RULES: dict[str, dict[str, Any]] = {
    "one scale": {},
    "axis=latitude, mse": {"axis": "latitude", "scale_method": "mse"},
    "the same, tp in blocks of 1 x 32": {"axis": "latitude", "scale_method": "mse", "rules": BY_FIELD},
    "blocks of 4 x 8 (preset field)": {"preset": "field"},
}
OTHERS = {"packed int8": 8, "packed int16": 16, "floats": None}  # bits of integers


def weather(days: int) -> xr.Dataset:
    """Fields on a grid of two degrees: made up, all but the wind smooth along a parallel."""
    random = np.random.default_rng(0)
    day, latitude, longitude = np.arange(days).reshape(-1, 1, 1), np.linspace(90, -90, 91), np.arange(0, 360, 2.0)
    phi, theta = np.deg2rad(latitude).reshape(-1, 1), np.deg2rad(longitude)
    waves = np.sin(3 * theta + day / 9) * np.cos(phi) ** 2
    eddies = np.cumsum(random.normal(size=(days, 91, 180)), axis=2) / 40
    t2m = 288 - 50 * np.sin(phi) ** 2 + 6 * waves + eddies
    sst = np.where(random.random((91, 180)) < 0.3, np.nan, t2m.clip(271.4))
    rain = np.where(eddies > 0.3, (1e-4 * eddies).clip(0), 0)
    wind = 8 * waves + random.normal(0, 2, size=eddies.shape)
    variables = {
        "t2m": (DIMS, t2m.astype(np.float32), {"units": "K"}),
        "sst": (DIMS, sst.astype(np.float32), {"units": "K"}),
        "msl": (DIMS, (101_325 - 3_000 * waves + 40 * eddies).astype(np.float32), {"units": "Pa"}),
        "tp": (DIMS, rain.astype(np.float32), {"units": "m"}),
        "u10": (DIMS, wind.astype(np.float32), {"units": "m s-1"}),
        "lsm": (DIMS[1:], np.isnan(sst[0]).astype(np.int8), {"flag_values": [0, 1], "flag_meanings": "sea land"}),
        "latitude_bnds": (("latitude", "bnds"), np.stack([latitude + 1, latitude - 1], axis=1)),
    }
    coordinates = {
        "time": xr.date_range("2001-01-01", periods=days),
        "latitude": ("latitude", latitude, {"units": "degrees_north", "bounds": "latitude_bnds"}),
        "longitude": ("longitude", longitude, {"units": "degrees_east"}),
    }
    return xr.Dataset(variables, coordinates, {"Conventions": "CF-1.11", "title": "Weather that was made up"})


def of_weather(folder: Path, quick: bool) -> list[Table]:
    """A file of fields by rules of int4, packed integers, and floats."""
    source = folder / "weather.nc"
    weather(8 if quick else 120).to_netcdf(source)
    writers: dict[str, Callable[[Path], object]] = {
        **{f"int4, {label}": int4_writer(source, options) for label, options in RULES.items()},
        **{f"xarray.to_zarr, {label}": xarray_writer(source, bits) for label, bits in OTHERS.items()},
    }
    figures, kept = [], []
    for label, write in writers.items():
        path = folder / "written.zarr"
        write(path)
        figures.append({"written as": label, **dict(figures_of(source, path))})
        kept.append({"written as": label, **kept_of(source, path)})
        shutil.rmtree(path)
    with opened(source) as fields:
        shape = " x ".join(map(str, fields["t2m"].shape))
    return [
        Table(f"dB @ bits a value, five fields of {shape} values of float32", figures),
        Table("What xarray.open_dataset(store) finds of them", kept),
    ]


def opened(path: Path) -> xr.Dataset:
    """A file or a store, by the engine that xarray finds for it."""
    with warnings.catch_warnings(action="ignore"):  # of ordinary stores, that their metadata are not consolidated
        return xr.open_dataset(path)


def int4_writer(source: Path, options: dict[str, Any]) -> Callable[[Path], object]:
    return lambda path: quantize_dataset(source, path, **options)


def xarray_writer(source: Path, bits: int | None) -> Callable[[Path], object]:
    """What writes fields by xarray alone: as floats, or as integers of so many bits."""

    def write(path: Path) -> None:
        with opened(source) as fields:
            encoding = {} if bits is None else {name: packing(fields[name], bits) for name in FIELDS}
            fields.to_zarr(path, encoding=encoding, consolidated=False)

    return write


def packing(field: xr.DataArray, bits: int) -> dict[str, Any]:
    """Integers from the least to the greatest value, and one more for what is missing."""
    low, high, codes = float(field.min()), float(field.max()), 1 << bits
    scale = {"scale_factor": (high - low) / (codes - 2), "add_offset": (high + low) / 2}
    return {"dtype": f"int{bits}", "_FillValue": -codes // 2, **scale}


def figures_of(source: Path, path: Path) -> Iterator[tuple[str, Any]]:
    with opened(source) as fields, opened(path) as found:
        for name in FIELDS:
            values = fields[name].to_numpy()
            bytes_of_chunks = size_of(path / name) - (path / name / "zarr.json").stat().st_size
            beside = sum(size_of(other) for other in path.glob(f"{name}_*"))  # scales of an axis
            bits = 8 * (bytes_of_chunks + beside) / values.size
            yield name, str(Fidelity(decibels(values, found[name].to_numpy()), bits))
    yield "all, MB", size_of(path) / MB


def kept_of(source: Path, path: Path) -> dict[str, str]:
    with opened(source) as fields, opened(path) as found:
        others = [*fields.coords, "latitude_bnds", "lsm"]
        same = all(fields[name].dtype == found[name].dtype and fields[name].equals(found[name]) for name in others)
        masks = all(bool((fields[name].isnull() == found[name].isnull()).all()) for name in FIELDS)
        attributes = fields.attrs == found.attrs and all(same_attributes(fields, found, name) for name in found)
        dtypes = {str(found[name].dtype) for name in FIELDS}
    return {
        "coordinates, bounds and flags identical": verdict(same),
        "missing values in place": verdict(masks),
        "attributes": verdict(attributes),
        "fields read as": " and ".join(sorted(dtypes)),
    }


def same_attributes(fields: xr.Dataset, found: xr.Dataset, name: Any) -> bool:
    one, other = fields[name].attrs, found[name].attrs
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


# A checkpoint ---------------------------------------------------------------------------------------------------------

KINDS = {"trained": "digits.", "drawn": "model.layers.", "embeddings": "model.embed"}
SHARING: dict[str, dict[str, Any]] = {
    "one scale, minmax": {},
    "axis=0": {"axis": 0, "scale_method": "mse"},
    "blocks=32": {"preset": "weights"},
    "blocks=32, embeddings in (32, 1)": {
        "preset": "weights",
        "rules": {"*embed*": {"blocks": (32, 1), "scale_method": "mse"}},
    },
    "blocks=16": {"blocks": 16, "scale_method": "mse"},
}
BITS_OF_GGUF = {"Q4_0": 4.5, "Q4_1": 5.0, "Q4_K": 4.5, "Q8_0": 8.5}
ZSTD = Zstd(level=1)


def checkpoint(layers: int, size: int) -> dict[str, np.ndarray]:
    """Tensors of all kinds: of `examples/weights.py` as it was trained, and drawn ones, with rows of several sizes."""
    random = np.random.default_rng(0)
    trained = np.split(network_weights(random, 1_000_000 if size == 768 else 10_000), 2)
    tensors = {f"digits.{i}.weight": matrix for i, matrix in enumerate(trained)}
    tensors["model.embed_tokens.weight"] = outlier_embeddings(random, 768 * size).astype(np.float32)
    for i in range(layers):
        for part, shape in {"self_attn.q_proj": (768, 768), "mlp.up_proj": (4 * size, 768)}.items():
            spread = random.lognormal(-4, 0.3, (shape[0], 1))
            tensors[f"model.layers.{i}.{part}.weight"] = (spread * random.standard_t(5, shape)).astype(np.float32)
            tensors[f"model.layers.{i}.{part}.bias"] = random.normal(size=shape[0]).astype(np.float32)
        tensors[f"model.layers.{i}.norm.weight"] = random.normal(1, 0.1, 768).astype(ml_dtypes.bfloat16)
    return tensors | {
        "model.position_ids": np.arange(512).reshape(1, -1),
        "model.causal_mask": np.tri(8, dtype=bool),
        "logit_scale": np.array(2.6592, np.float32),
    }


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A file as the format has it: the length of a header, the header, and the bytes."""
    dtypes = {"float32": "F32", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": dtypes[str(tensor.dtype)], "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(tensor.tobytes() for tensor in tensors.values())


def of_checkpoint(folder: Path, quick: bool) -> list[Table]:
    """A checkpoint by rules of int4, int8 with a scale for each row, and GGUF's types."""
    tensors = checkpoint(1 if quick else 4, 128 if quick else 768)
    source = folder / "model.safetensors"
    write_safetensors(source, tensors)
    matrices = [name for name, tensor in tensors.items() if name.endswith(".weight") and tensor.ndim == 2]
    weights = {kind: [name for name in matrices if name.startswith(start)] for kind, start in KINDS.items()}

    def row(label: str, restored: dict[str, np.ndarray], stored: dict[str, int], whole: float | None) -> dict[str, Any]:
        shown: dict[str, Any] = {"written as": label}
        for kind, names in weights.items():
            noise = sum(float(np.square(tensors[n].astype(np.float64) - restored[n]).sum()) for n in names)
            power = sum(float(tensors[n].astype(np.float64).var() * tensors[n].size) for n in names)
            bits = 8 * sum(stored[n] for n in names) / sum(tensors[n].size for n in names)
            shown[kind] = str(Fidelity(float(10 * np.log10(power / noise)), bits))
        return shown | {"all, MB": whole}

    rows, kept = [], []
    for label, options in SHARING.items():
        path = folder / "model.zarr"
        found = quantize_dataset(source, path, select=matrices, **options)
        rows.append(
            row(
                f"int4, {label}",
                {name: found[name][...] for name in matrices},
                {name: found[name].nbytes_stored for name in matrices},
                size_of(path) / MB,
            )
        )
        if label == "blocks=32":
            kept.append({"written as": "int4", **kept_tensors(tensors, found, matrices)})
        shutil.rmtree(path)
    codes, restored = int8_rows({name: tensors[name] for name in matrices})
    others = sum(tensors[name].nbytes for name in tensors if name not in matrices)
    stored = {name: codes[name].nbytes + 4 * len(codes[name]) for name in matrices}
    rows.append(row("int8, a scale for each row", restored, stored, (sum(stored.values()) + others) / MB))
    compressed = {name: len(ZSTD.encode(codes[name])) + 4 * len(codes[name]) for name in matrices}
    rows.append(row("the same in zstd", restored, compressed, (sum(compressed.values()) + others) / MB))
    for name in BITS_OF_GGUF:
        rows.append(gguf_row(name, tensors, matrices, row, folder))
    if find_spec("gguf"):
        kept.append({"written as": "GGUF", **kept_in_gguf(folder / "Q4_0.gguf", tensors, matrices)})
    count, values = len(matrices), sum(tensors[name].size for name in matrices)
    title = f"dB @ bits a value, {count} matrices of a checkpoint, {values:,} values of float32"
    return [Table(title, rows), Table("What is kept of its other tensors", kept)]


def int8_rows(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Codes and restored values with one float32 scale for each row, zero in the middle."""
    codes, restored = {}, {}
    for name, matrix in tensors.items():
        scale = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(127)
        codes[name] = np.rint(matrix / scale).astype(np.int8)
        restored[name] = codes[name] * scale
    return codes, restored


def gguf_row(
    name: str, tensors: dict[str, np.ndarray], matrices: list[str], row: Callable[..., dict[str, Any]], folder: Path
) -> dict[str, Any]:
    if find_spec("gguf") is None:
        return {"written as": f"GGUF {name}", **dict.fromkeys(KINDS, ABSENT), "all, MB": None}
    packed = {one: gguf(name, tensors[one]) for one in matrices}
    path = folder / f"{name}.gguf"
    write_gguf(path, name, tensors, {one: stored for one, (stored, _) in packed.items()})
    restored = {one: values for one, (_, values) in packed.items()}
    stored = {one: len(data) for one, (data, _) in packed.items()}
    return row(f"GGUF {name}", restored, stored, size_of(path) / MB)


def write_gguf(path: Path, name: str, tensors: dict[str, np.ndarray], packed: dict[str, bytes]) -> None:
    """A file of packed matrices and all other tensors that the package takes."""
    package = import_module("gguf")
    kinds = package.GGMLQuantizationType
    writer = package.GGUFWriter(path, "none")
    for one, tensor in tensors.items():
        if one in packed:
            rows = np.frombuffer(packed[one], np.uint8).reshape(len(tensor), -1)
            writer.add_tensor(one, rows, raw_dtype=kinds[name])
        elif tensor.dtype == ml_dtypes.bfloat16:
            writer.add_tensor(one, tensor.view(np.uint8), raw_dtype=kinds.BF16)
        elif tensor.dtype != bool:  # which it refuses
            writer.add_tensor(one, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def kept_tensors(tensors: dict[str, np.ndarray], found: Int4Dataset, matrices: list[str]) -> dict[str, Any]:
    others = [name for name in tensors if name not in matrices]
    same = [name for name in others if same_bytes(tensors[name], np.asarray(found[name][...]))]
    return what_is_kept(len(found), len(tensors), len(same), len(others), found.attributes == {"format": "pt"})


def kept_in_gguf(path: Path, tensors: dict[str, np.ndarray], matrices: list[str]) -> dict[str, Any]:
    found = {tensor.name: tensor for tensor in import_module("gguf").GGUFReader(path).tensors}
    others = [name for name in tensors if name not in matrices]
    same = [
        name
        for name in others
        if name in found
        and found[name].data.tobytes() == tensors[name].tobytes()
        and tuple(found[name].shape[::-1]) == tensors[name].shape
    ]
    return what_is_kept(len(found.keys() & tensors.keys()), len(tensors), len(same), len(others), None)


def what_is_kept(names: int, of_names: int, same: int, of: int, metadata: bool | None) -> dict[str, Any]:
    return {
        "names": f"{names} of {of_names}",
        "other tensors, bit for bit": f"{same} of {of}",
        "__metadata__": "by hand" if metadata is None else verdict(metadata),
    }


def same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
