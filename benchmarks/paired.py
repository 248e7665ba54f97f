"""Time ONNX files against each other: alternated runs in one process, pinned threads, medians of paired ratios.

    python -m benchmarks.paired REFERENCE.onnx CANDIDATE.onnx [...] --shape input_ids=1x128 [--rounds 60]

An independent check of `onnxprune time`: it shares no code with it.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.sessions import open_session

Feed = Mapping[str, NDArray[Any]]

_RESAMPLES = 2000
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How one file ran beside the first.

    Attributes:
        file: its path as given.
        load_ms: time to open its session, once.
        median_ms, p10_ms, p90_ms: over the rounds.
        speedup: median over rounds of the first file's time over this one's; 1 for the first itself.
        low, high: bootstrap 95 % interval of `speedup`.
        rounds: runs of each file.
    """

    file: str
    load_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    speedup: float
    low: float
    high: float
    rounds: int


def speedup(reference_ms: NDArray[np.float64], candidate_ms: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median of paired ratios reference / candidate with its bootstrap 95 % interval."""
    ratios = reference_ms / candidate_ms
    index = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[index], axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


def run(files: Sequence[Path], feeds: Sequence[Feed], *, rounds: int = 60, warmup: int = 5) -> NDArray[np.float64]:
    """Return milliseconds [files, rounds] of one run each, the order of files turned by one from round to round."""
    return _rounds([open_session(path) for path in files], feeds, rounds=rounds, warmup=warmup)


def compare(files: Sequence[Path], feeds: Sequence[Feed], *, rounds: int = 60, warmup: int = 5) -> list[Timing]:
    """Time `files` on `feeds` (taken in turn) and set each against the first."""
    sessions, loads = [], []
    for path in files:
        started = time.perf_counter()
        sessions.append(open_session(path))
        loads.append((time.perf_counter() - started) * 1000)
    table = _rounds(sessions, feeds, rounds=rounds, warmup=warmup)
    return [_timing(str(path), load, table[0], row) for path, load, row in zip(files, loads, table, strict=True)]


def _rounds(
    sessions: Sequence[ort.InferenceSession], feeds: Sequence[Feed], *, rounds: int, warmup: int
) -> NDArray[np.float64]:
    table = np.empty((len(sessions), rounds))
    for number in range(-warmup, rounds):
        feed = feeds[number % len(feeds)]
        # Whoever follows a slow file finds colder caches: everyone takes every place.
        for place in range(len(sessions)):
            index = (number + place) % len(sessions)
            started = time.perf_counter()
            sessions[index].run(None, feed)
            if number >= 0:
                table[index, number] = (time.perf_counter() - started) * 1000
    return table


def _timing(file: str, load_ms: float, reference: NDArray[np.float64], own: NDArray[np.float64]) -> Timing:
    p10, median, p90 = (float(value) for value in np.percentile(own, (10, 50, 90)))
    ratio, low, high = speedup(reference, own)
    return Timing(file=file, load_ms=load_ms, median_ms=median, p10_ms=p10, p90_ms=p90,
                  speedup=ratio, low=low, high=high, rounds=len(own))  # fmt: skip


def synthetic(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return inputs for the file at `path`: small ids, masks of ones, standard normal floats; seeded.

    Args:
        path: an ONNX file.
        shapes: by input name; for text, one input's shape serves the others of the same rank. A dynamic axis
            that no shape names is 1.
    """
    generator = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {}
    for entry in open_session(path).get_inputs():
        alike = [shape for shape in shapes.values() if len(shape) == len(entry.shape)]
        fixed = tuple(size if isinstance(size, int) and size > 0 else 1 for size in entry.shape)
        shape = shapes.get(entry.name, alike[0] if alike and entry.type == "tensor(int64)" else fixed)
        dtype = _DTYPES[entry.type]
        if not np.issubdtype(dtype, np.integer):
            feed[entry.name] = generator.standard_normal(shape).astype(dtype)
        elif "mask" in entry.name:
            feed[entry.name] = np.ones(shape, dtype)
        elif "type" in entry.name:
            feed[entry.name] = np.zeros(shape, dtype)
        else:
            feed[entry.name] = generator.integers(5, 100, shape).astype(dtype)
    return feed


def main(arguments: list[str]) -> None:
    """Print the timings of the files named as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the first is the reference")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1x128", help="shape of an input")
    parser.add_argument("--feed", type=Path, help=".npz of one feed, instead of shapes")
    parser.add_argument("--rounds", type=int, default=60, help="runs of each file (default 60)")
    asked = parser.parse_args(arguments)
    if asked.feed:
        with np.load(asked.feed) as arrays:
            feed = dict(arrays)
    else:
        named = (text.split("=") for text in asked.shape)
        feed = synthetic(asked.files[0], {name: tuple(map(int, size.split("x"))) for name, size in named})
    print(json.dumps([asdict(timing) for timing in compare(asked.files, [feed], rounds=asked.rounds)], indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
