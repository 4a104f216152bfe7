"""4-bit quantizers of others that pack, with one scale for all values: the peers of the section memory.

Each finds the range itself, which is part of the work. They are imported by name, since they may be absent, and each is
called in a process of its own, on as many threads as it is told; NumPy knows only one. Idle threads are told to sleep,
or they would take the processors from what is measured next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple
from warnings import simplefilter

import numpy as np

COLUMNS = 1024  # faiss quantizes vectors: with one scale, but faster where they are long
SLEEPING = {"OMP_WAIT_POLICY": "passive"}  # as runtimes of OpenMP read it when they are loaded


class Packer(NamedTuple):
    """Both ways of a quantizer: from float32 to whatever it packs them into, and from that to float32 again."""

    quantize: Callable[[np.ndarray], Any]
    dequantize: Callable[[Any], Any]


def faiss_packer(threads: int) -> Packer:
    """The 4-bit uniform scalar quantizer of faiss, from minimum to maximum."""
    os.environ.update(SLEEPING)
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(threads)
    quantizer = faiss.ScalarQuantizer(COLUMNS, faiss.ScalarQuantizer.QT_4bit_uniform)
    quantizer.rangestat = faiss.ScalarQuantizer.RS_minmax
    quantizer.rangestat_arg = 0.0

    def quantize(values: np.ndarray) -> Any:
        vectors = values.reshape(-1, COLUMNS)
        quantizer.train(vectors)
        return quantizer.compute_codes(vectors)

    return Packer(quantize, quantizer.decode)


def torch_packer(threads: int) -> Packer:
    """Tensors of torch of the dtype quint4x2."""
    os.environ.update(SLEEPING)
    torch = import_module("torch")
    torch.set_num_threads(threads)
    simplefilter("ignore")  # newer versions warn that such tensors will go

    def quantize(values: np.ndarray) -> Any:
        tensor = torch.from_numpy(values)
        low, high = (bound.item() for bound in torch.aminmax(tensor))
        scale = (high - low) / 15
        return torch.quantize_per_tensor(tensor, scale, round(-low / scale), torch.quint4x2)

    return Packer(quantize, lambda tensor: tensor.dequantize())


def onnxruntime_packer(threads: int) -> Packer:
    """ONNX's QuantizeLinear and DequantizeLinear of INT4, as onnxruntime runs them; the range is found by NumPy."""
    onnx, onnxruntime = import_module("onnx"), import_module("onnxruntime")
    int4, float32 = onnx.TensorProto.INT4, onnx.TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    tensor = onnxruntime.OrtValue.ortvalue_from_numpy
    tensor_of = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type

    def session(operator: str, given: int, wanted: int) -> Any:
        inputs = {"x": (given, ["n"]), "scale": (float32, []), "zero_point": (int4, [])}
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(operator, list(inputs), ["y"])],
            operator,
            [onnx.helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [onnx.helper.make_tensor_value_info("y", wanted, ["n"])],
        )
        opset = onnx.helper.make_opsetid("", 21)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    quantizing = session("QuantizeLinear", float32, int4)
    dequantizing = session("DequantizeLinear", int4, float32)

    def quantize(values: np.ndarray) -> Any:
        scale, zero_point = minmax(values)
        nibble = np.array(zero_point & 15, np.uint8)
        parameters = {"scale": tensor(np.array(scale, np.float32)), "zero_point": tensor_of(nibble, int4)}
        (codes,) = quantizing.run_with_ort_values(["y"], {"x": tensor(values), **parameters})
        return {"x": codes, **parameters}

    return Packer(quantize, lambda quantized: dequantizing.run_with_ort_values(["y"], quantized)[0])


def numpy_packer(threads: int) -> Packer:
    """What one writes with NumPy: in place where that helps, and back by looking up the two values of each byte."""

    def quantize(values: np.ndarray) -> tuple[np.ndarray, float, int]:
        scale, zero_point = minmax(values)
        levels = values / np.float32(scale)
        np.rint(levels, out=levels)
        levels += zero_point
        np.clip(levels, -8, 7, out=levels)
        nibbles = levels.astype(np.int8).view(np.uint8) & 15
        return nibbles[::2] | nibbles[1::2] << 4, scale, zero_point

    def dequantize(quantized: tuple[np.ndarray, float, int]) -> np.ndarray:
        packed, scale, zero_point = quantized
        low_nibbles = np.arange(256, dtype=np.uint8).view(np.int8) << 4 >> 4
        high_nibbles = np.arange(256, dtype=np.uint8).view(np.int8) >> 4
        codes = np.stack([low_nibbles, high_nibbles], axis=1)
        pairs = ((codes - np.float32(zero_point)) * np.float32(scale)).view(np.complex64)[:, 0]
        restored: np.ndarray = pairs[packed].view(np.float32)
        return restored

    return Packer(quantize, dequantize)


def minmax(values: np.ndarray) -> tuple[float, int]:
    """The scale and the zero point that spread the codes -8..7 from minimum to maximum."""
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / 15
    return scale, round(-8 - low / scale)


# What each needs, and how it is made for so many threads.
PACKERS: dict[str, tuple[tuple[str, ...], Callable[[int], Packer]]] = {
    "faiss, 4 bits, uniform": (("faiss",), faiss_packer),
    "torch, quint4x2": (("torch",), torch_packer),
    "onnxruntime, INT4": (("onnxruntime", "onnx"), onnxruntime_packer),
    "NumPy": (("numpy",), numpy_packer),
}


def missing(packer: str) -> list[str]:
    """What a packer needs that is not installed."""
    return [module for module in PACKERS[packer][0] if find_spec(module) is None]
