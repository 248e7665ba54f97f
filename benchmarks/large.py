"""Memory and time of each command on transformers of 0.6, 1.2 and 2.5 GiB, made by configuration.

    python -m benchmarks.large [--folder benchmarks] [--work FOLDER] [--only 0.6 --only 1.2] [--page]

Writes `large.json` after each row, and `docs/limits.md` from it, with the counts of other benchmarks. Rows of sizes
that are not asked for stay, and are marked where they are of an earlier version.
Each command is a process of its own, started from a small parent; see `measure`. The models need 2.5 GiB of disk, and
results and temporary files as much again twice.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measure import measure
from onnxprune.resuming import code

_WIDTH, _HEADS, _HIDDEN, _WORDS = 2048, 16, 8192, 16_000
_CONTEXT = 256
# Layers by GiB: the tables of words take 0.24 GiB, a layer 0.19.
_LAYERS = {"0.6": 2, "1.2": 5, "2.5": 12}
_MAX_MEMORY = "512MB"
_TIMEOUT_S = 3600.0
_ALIGNED = 4096


class Stream:
    """Tensors of random numbers, written to a data file as they are made."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._name = path.name
        self.tensors: list[onnx.TensorProto] = []

    def __call__(self, name: str, *shape: int) -> str:
        """Write one tensor [rows, columns] of variance 1 / rows, some rows at a time."""
        chance = np.random.default_rng(len(self.tensors))
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNED))
        start = self._file.tell()
        for rows in range(0, shape[0], 256):
            block = chance.standard_normal((min(256, shape[0] - rows), *shape[1:]), np.float32)
            self._file.write((block / np.float32(np.sqrt(shape[0]))).data)
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self._name), ("offset", start), ("length", self._file.tell() - start)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def make(path: Path, layers: int, *, width: int = _WIDTH, hidden: int = _HIDDEN, words: int = _WORDS) -> None:
    """Write a decoder of pre-norm layers with random weights: `path`, and its weights beside it."""
    weight = Stream(path.with_name(f"{path.name}.data"))
    nodes: list[onnx.NodeProto] = []
    small: dict[str, Any] = {
        "split": np.array([0, 0, _HEADS, -1], np.int64),
        "merge": np.array([0, 0, -1], np.int64),
        "gain": np.ones(width, np.float32),
        "scale": np.array((width // _HEADS) ** -0.5, np.float32),
        "mask": np.where(np.tri(_CONTEXT, dtype=bool), 0, -1e9).astype(np.float32)[None, None],
        "none": np.array([0, 0], np.int64),
        "last": np.array([2, 3], np.int64),
    }

    def add(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    length = add("Shape", ["ids"], "length", start=1)
    ends = add("Concat", [length, length], "ends", axis=0)
    seen = add("Slice", ["mask", "none", ends, "last"], "seen")
    stream = add("Gather", [weight("words", words, width), "ids"], "x")
    for at in range(layers):
        p = f"{at}."
        normed = add("LayerNormalization", [stream, "gain"], f"{p}n1")
        heads = []
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            made = add("MatMul", [normed, weight(f"{p}w{part}", width, width)], f"{p}{part}")
            heads.append(add("Transpose", [add("Reshape", [made, "split"], f"{p}{part}h")], f"{p}{part}t", perm=order))
        scores = add("Mul", [add("MatMul", heads[:2], f"{p}s"), "scale"], f"{p}ss")
        shares = add("Softmax", [add("Add", [scores, seen], f"{p}sm")], f"{p}p", axis=-1)
        mixed = add("Transpose", [add("MatMul", [shares, heads[2]], f"{p}o")], f"{p}ot", perm=[0, 2, 1, 3])
        mixed = add("Reshape", [mixed, "merge"], f"{p}or")
        out = add("MatMul", [mixed, weight(f"{p}wo", width, width)], f"{p}a")
        stream = add("Add", [stream, out], f"{p}x1")
        normed = add("LayerNormalization", [stream, "gain"], f"{p}n2")
        active = add("Relu", [add("MatMul", [normed, weight(f"{p}up", width, hidden)], f"{p}u")], f"{p}r")
        stream = add("Add", [stream, add("MatMul", [active, weight(f"{p}down", hidden, width)], f"{p}d")], f"{p}x2")
    last = add("LayerNormalization", [stream, "gain"], "last_norm")
    add("MatMul", [last, weight("head", width, words)], "logits")
    weight.close()
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", words])],
        [*weight.tensors, *(numpy_helper.from_array(value, name) for name, value in small.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each step's name and arguments; a step works on what those before it wrote."""
    model, cut, whole, packed = (str(folder / f"{name}.onnx") for name in ("model", "cut", "int8", "packed"))
    data = ["--data", str(folder / "ids.npz")]
    limit = ["--max-memory", _MAX_MEMORY]
    less = "keep=0.75,score=magnitude,refit=no"
    both = ["--pass", f"remove-heads:{less}", "--pass", f"remove-neurons:{less}"]
    yield "inspect", ["inspect", model, "--shape", "ids=1x16", *limit]
    yield "cut heads and neurons", ["optimize", model, "-o", cut, *data, *limit, *both]
    yield "int8", ["optimize", cut, "-o", whole, *data, *limit, "--pass", "sparse-int8"]
    yield "pack", ["optimize", whole, "-o", packed, *data, *limit, "--pass", "pack-weights"]
    yield "validate", ["validate", model, packed, *data, "--fidelity", "-100", *limit]
    yield "apply", ["apply", model, str(folder / "cut.plan.json"), "-o", str(folder / "again.onnx"), *limit]


_SESSION = "import onnxruntime,sys; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"


def _rows(size: str, folder: Path, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What each step took, as it ends."""
    path = folder / "model.onnx"
    make(path, _LAYERS[size])
    held = path.stat().st_size + path.with_name("model.onnx.data").stat().st_size
    ids = np.random.default_rng(0).integers(0, _WORDS, (4, 16))
    np.savez(folder / "ids.npz", ids=ids)
    os.environ |= {"ONNXPRUNE_CACHE": "off", "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    steps = [("a bare session of onnxruntime", [sys.executable, "-c", _SESSION, str(path)])]
    steps += [(name, [sys.executable, "-m", "onnxprune", *rest]) for name, rest in commands(folder)]
    done = {row["step"] for row in known if row["size"] == size and row.get("code") == code()}
    for name, command in steps:
        if name in done and name in {"a bare session of onnxruntime", "inspect", "validate", "apply"}:
            continue
        found = measure(command, _TIMEOUT_S)
        if found.exit_code:
            raise SystemExit(f"{name} ended with {found.exit_code}: {found.stderr[-2000:]}\n{found.stdout[-500:]}")
        yield {
            "size": size,
            "model_bytes": held,
            "step": name,
            "peak_bytes": int(found.peak_mb * 1e6),
            "anonymous_bytes": int(found.anonymous_mb * 1e6),
            "mapped_bytes": int(found.mapped_mb * 1e6),
            "seconds": round(found.seconds, 1),
            "cpu_seconds": round(found.cpu_seconds, 1),
            "written": {
                each.name: each.stat().st_size for each in sorted(folder.glob("*.onnx*")) if "model" not in each.name
            },
            "code": code(),
            "said": found.stdout.partition("\n")[0].rpartition("— ")[2] if name not in {"apply", "inspect"} else "",
        }


def main(arguments: list[str]) -> int:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--work", type=Path, help="Where models and temporary files go.")
    parser.add_argument("--only", action="append", choices=sorted(_LAYERS), help="Sizes in GiB; all by default.")
    parser.add_argument("--page", action="store_true", help="Write the page from what was measured, and no more.")
    asked = parser.parse_args(arguments)
    store = asked.folder / "large.json"
    rows: list[dict[str, Any]] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else []
    for size in () if asked.page else asked.only or sorted(_LAYERS):
        folder = Path(tempfile.mkdtemp(prefix="large-", dir=asked.work))
        try:
            for row in _rows(size, folder, rows):
                rows = [one for one in rows if (one["size"], one["step"]) != (size, row["step"])] + [row]
                store.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                print(size, row["step"], row["peak_bytes"] // 10**6, "MB", row["seconds"], "s", flush=True)
        finally:
            shutil.rmtree(folder)
    from benchmarks.large_page import page

    Path("docs/limits.md").write_text(page(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
