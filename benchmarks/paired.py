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


def paired_ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median of one / other, round by round, with its bootstrap 95 % interval."""
    ratios = one / other
    index = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[index], axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Race:
    """Files that ran in alternation.

    Attributes:
        files: as given; the first is the reference.
        load_ms: time to open each session, once.
        runs_ms: [files, rounds].
    """

    files: tuple[Path, ...]
    load_ms: tuple[float, ...]
    runs_ms: NDArray[np.float64]

    def timings(self) -> list[Timing]:
        """Set each file against the first."""
        return [self._timing(index) for index in range(len(self.files))]

    def _timing(self, index: int) -> Timing:
        own = self.runs_ms[index]
        p10, median, p90 = (float(value) for value in np.percentile(own, (10, 50, 90)))
        ratio, low, high = paired_ratio(self.runs_ms[0], own)
        return Timing(
            file=str(self.files[index]), load_ms=self.load_ms[index], median_ms=median, p10_ms=p10, p90_ms=p90,
            speedup=ratio, low=low, high=high, rounds=len(own),
        )  # fmt: skip


def race(files: Sequence[Path], feeds: Sequence[Feed], *, rounds: int = 60, warmup: int = 5) -> Race:
    """Run each file once a round, `rounds` times after `warmup`, on `feeds` in turn."""
    sessions, loads = [], []
    for path in files:
        started = time.perf_counter()
        sessions.append(open_session(path))
        loads.append((time.perf_counter() - started) * 1000)
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
    return Race(files=tuple(files), load_ms=tuple(loads), runs_ms=table)


def synthetic(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return inputs for the file at `path`: ids below 20, masks of ones, standard normal floats; seeded.

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
            feed[entry.name] = generator.integers(1, 20, shape).astype(dtype)
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
    print(json.dumps([asdict(timing) for timing in race(asked.files, [feed], rounds=asked.rounds).timings()], indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
