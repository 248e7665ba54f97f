"""How fast this machine multiplies matrices through onnxruntime: the ceiling that models are held against.

python -m benchmarks.peak [--threads 1] [--rounds 30]     print the peaks as JSON
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.sessions import open_session

# [m, k, n]: rows of activations, inputs, outputs. Large enough for the kernels to be busy, small enough for the caches
# of a core: which of them is the fastest is found by running.
SIZES: tuple[tuple[int, int, int], ...] = (
    (128, 1024, 1024),
    (256, 1024, 1024),
    (512, 1024, 2048),
    (1024, 1024, 1024),
    (256, 2048, 2048),
)
# Operator -> whether it multiplies integers.
OPERATORS: Mapping[str, bool] = {
    "MatMul": False, "MatMulInteger": True, "QLinearMatMul": True, "DynamicQuantizeMatMul": True,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The best that an operator did on one thread or more.

    Attributes:
        operator: by its ONNX name; DynamicQuantizeMatMul is onnxruntime's own and quantizes its input, too.
        size: (m, k, n) of the product at which it was fastest.
        gmacs: 10⁹ multiply-accumulates a second, from the fastest run.
        median_gmacs: from the median run.
        rounds: timed runs of each size.
    """

    operator: str
    size: tuple[int, int, int]
    gmacs: float
    median_gmacs: float
    rounds: int


def gemm_peaks(operators: Sequence[str] = tuple(OPERATORS), *, threads: int = 1, rounds: int = 30) -> dict[str, Peak]:
    """Return the peak of each operator named, the best over SIZES; the weight is constant, as in a model."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for operator in operators:
            found = [_measured(Path(folder), operator, size, threads, rounds) for size in SIZES]
            peaks[operator] = max(found, key=lambda peak: peak.gmacs)
    return peaks


def best(peaks: Mapping[str, Peak], *, integer: bool) -> Peak:
    """Return the fastest of the float or of the integer operators."""
    return max((peaks[name] for name in peaks if OPERATORS[name] is integer), key=lambda peak: peak.gmacs)


def product(operator: str, size: tuple[int, int, int]) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """Return a model of one product with a constant weight, and its input: standard normal, or its 8-bit image."""
    m, k, n = size
    generator = np.random.default_rng(0)
    integer = OPERATORS[operator]
    weight = generator.integers(-127, 128, (k, n)).astype(np.int8) if integer else _normal(generator, (k, n))
    floats = operator in {"MatMul", "DynamicQuantizeMatMul"}
    x = _normal(generator, (m, k)) if floats else generator.integers(0, 256, (m, k)).astype(np.uint8)
    constants = {
        "weight": weight,
        "x_scale": np.array(0.02, np.float32), "x_zero": np.array(128, np.uint8),
        "w_scale": np.array(0.01, np.float32), "w_zero": np.array(0, np.int8),
        "y_scale": np.array(0.5, np.float32), "y_zero": np.array(128, np.uint8),
    }  # fmt: skip
    inputs = {
        "MatMul": ["x", "weight"],
        "MatMulInteger": ["x", "weight", "x_zero"],
        "QLinearMatMul": ["x", "x_scale", "x_zero", "weight", "w_scale", "w_zero", "y_scale", "y_zero"],
        "DynamicQuantizeMatMul": ["x", "weight", "w_scale"],
    }[operator]
    domain = "com.microsoft" if operator == "DynamicQuantizeMatMul" else ""
    given = {"MatMulInteger": TensorProto.INT32, "QLinearMatMul": TensorProto.UINT8}.get(operator, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], domain=domain)],
        "product",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), [m, k])],
        [helper.make_tensor_value_info("y", given, [m, n])],
        [numpy_helper.from_array(constants[name], name) for name in inputs if name in constants],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), {"x": x}


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return generator.standard_normal(shape).astype(np.float32)


def _measured(folder: Path, operator: str, size: tuple[int, int, int], threads: int, rounds: int) -> Peak:
    model, feed = product(operator, size)
    path = folder / "product.onnx"
    onnx.save(model, path)
    session = open_session(path, threads)
    runs = np.empty(rounds)
    for number in range(-3, rounds):
        started = time.perf_counter()
        session.run(None, feed)
        if number >= 0:
            runs[number] = time.perf_counter() - started
    gmacs = np.prod(size, dtype=np.float64) / 1e9 / runs
    return Peak(operator=operator, size=size, gmacs=float(gmacs.max()), median_gmacs=float(np.median(gmacs)),
                rounds=rounds)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Print the peaks as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="inside operators (default 1)")
    parser.add_argument("--rounds", type=int, default=30, help="timed runs of each size (default 30)")
    asked = parser.parse_args(arguments)
    peaks = gemm_peaks(threads=asked.threads, rounds=asked.rounds)
    print(json.dumps({name: asdict(peak) for name, peak in peaks.items()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
