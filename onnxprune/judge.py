"""Whether an edited model may stand: it loads, it runs at other shapes, and its outputs are close to the original's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from onnxprune.errors import ModelError
from onnxprune.fidelity import Fidelity, compare
from onnxprune.memory import short_of_memory
from onnxprune.model import Model, data_files, load
from onnxprune.runtime import Feeds, Level, Session, open_session, written

Outputs = dict[str, Any]
Check = Literal["full", "basic", "none"]

# Reference outputs are kept up to this size; beyond it the reference runs again.
_KEPT_BYTES = 2**28
# Float rounding through a deep network, as a share of the largest output.
LOSSLESS_TOLERANCE = 1e-4
# A saturated output hides large sums behind small numbers: as much may move as a few times what the original itself
# moves between optimization levels.
LEVEL_NOISE_FACTOR = 4


class Broken(Exception):  # noqa: N818 - a verdict, not an error
    """The model may not stand; the message says what failed."""


@dataclass(frozen=True)
class Evidence:
    """What the original does, to hold candidates against.

    Attributes:
        session: the original at the default optimization level.
        probes: feeds of at least two shapes.
        noise: per float output, how far it moves on the probes when optimizations are off.
        held_out: samples that never calibrate.
        check: which of onnx's checks the original itself passes; candidates must pass the same.
    """

    session: Session
    probes: Sequence[Feeds]
    probe_outputs: Sequence[Outputs]
    noise: Mapping[str, float]
    held_out: Sequence[Feeds]
    reference: Sequence[Outputs] | None
    check: Check

    def references(self, count: int) -> Iterator[Outputs]:
        """The original's outputs on the first `count` held-out samples."""
        if self.reference is not None:
            yield from self.reference[:count]
            return
        for feeds in self.held_out[:count]:
            yield self.session.run(feeds)


def gather_evidence(path: Path, session: Session, probes: Sequence[Feeds], held_out: Sequence[Feeds]) -> Evidence:
    """Run the original once on everything.

    Raises:
        ModelError: the original does not run.
    """
    kept: list[Outputs] | None = []
    size = 0
    for feeds in held_out:
        outputs = session.run(feeds)
        size += sum(value.nbytes for value in outputs.values() if isinstance(value, np.ndarray))
        if size > _KEPT_BYTES:
            kept = None
            break
        if kept is not None:
            kept.append(outputs)
    probe_outputs = [session.run(feeds) for feeds in probes]
    return Evidence(
        session=session,
        probes=probes,
        probe_outputs=probe_outputs,
        noise=_level_noise(path, probes, probe_outputs),
        held_out=held_out,
        reference=kept,
        check=_passed_check(path),
    )


def _level_noise(path: Path, probes: Sequence[Feeds], outputs: Sequence[Outputs]) -> dict[str, float]:
    """Per float output: the largest difference that switching optimizations off makes to the original."""
    plain = open_session(path, level="none")
    noise: dict[str, float] = {}
    for feeds, expected in zip(probes, outputs, strict=True):
        for name, value in plain.run(feeds).items():
            wanted = expected[name]
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.shape != wanted.shape:
                continue
            known = np.isfinite(value) & np.isfinite(wanted)
            moved = np.abs(value[known].astype(np.float64) - wanted[known])
            noise[name] = max(noise.get(name, 0.0), float(np.max(moved, initial=0.0)))
    return noise


def _passed_check(path: Path) -> Check:
    if short_of_memory() and not data_files(path):
        # The checker reads a file whole, but no data files.
        with written(load(path)) as other:
            return _passed_check(other)
    for check in ("full", "basic"):
        try:
            onnx.checker.check_model(str(path), full_check=check == "full")
        except Exception:  # noqa: BLE001, S112 - the checker raises several unrelated types; the answer is the next one
            continue
        return check
    return "none"


def judge(model: Model, evidence: Evidence, *, lossless: bool, samples: int | None = None) -> Fidelity:
    """Fidelity of a candidate that loads and runs.

    Args:
        model: the candidate.
        evidence: of the original.
        lossless: whether its outputs must equal the original's up to float rounding.
        samples: a quick look at this many held-out samples, at the default level only: for ranking edits, not for
            letting a model stand.

    Raises:
        Broken: the checker, the runtime or a comparison refuses it.
    """
    with written(model) as path:
        try:
            if samples is None:
                _check(path, evidence)
                _probe(open_session(path, level="none"), evidence, lossless=lossless)
            session = open_session(path)
            _probe(session, evidence, lossless=lossless)
        except ModelError as error:
            raise Broken(str(error)) from error
        count = len(evidence.held_out) if samples is None else min(samples, len(evidence.held_out))
        return compare(
            evidence.references(count),
            session,
            evidence.held_out[:count],
            inputs=evidence.session.inputs,
            outputs=evidence.session.outputs,
        )


def unsteady(evidence: Evidence) -> tuple[str, ...]:
    """Outputs of the original that differ from run to run, by more than float rounding."""
    again, found = evidence.session.run(evidence.probes[0]), []
    for name, value in evidence.probe_outputs[0].items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            known = np.isfinite(value)
            scale = float(np.max(np.abs(value[known]), initial=0.0))
            if (
                again[name].shape != value.shape
                or _largest_move(again[name], value, known) > LOSSLESS_TOLERANCE * scale
            ):
                found.append(name)
    return tuple(found)


def refuse_other_bits(before: Model, after: Model, probes: Sequence[Feeds]) -> None:
    """Hold that two models answer the same, bit for bit.

    Raises:
        Broken: an output differs, although the first model gives the same one each time.
    """
    first, second = open_session(before), open_session(after)
    for feeds in probes:
        expected, again, came = first.run(feeds), first.run(feeds), second.run(feeds)
        for name, value in expected.items():
            if isinstance(value, np.ndarray) and _same_bits(value, again[name]) and not _same_bits(value, came[name]):
                raise Broken(f"output {name!r} is not the same bit for bit")


def refuse_moved(before: Model, after: Model, probes: Sequence[Feeds]) -> None:
    """Hold that two models answer alike: up to float rounding, or a few times what optimizations move the first one by.

    Dynamic quantization makes whole steps of rounding, whichever the cause; the second bound is for that.

    Raises:
        Broken: an output moved further, or is not finite where it was.
    """
    wanted, unoptimized = _outputs(before, probes), _outputs(before, probes, level="none")
    levels: tuple[Level, ...] = ("default", "none")
    for level in levels:
        for expected, noisy, came in zip(wanted, unoptimized, _outputs(after, probes, level=level), strict=True):
            for name, value in expected.items():
                if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or came[name].shape != value.shape:
                    continue
                known = np.isfinite(value)
                moved, noise = (_largest_move(one[name], value, known) for one in (came, noisy))
                scale = max(float(np.max(np.abs(value[known]), initial=0.0)), 1e-6)
                allowed = max(LOSSLESS_TOLERANCE * scale, LEVEL_NOISE_FACTOR * noise)
                if not moved <= allowed:
                    raise Broken(f"output {name!r} moved by {moved:.3g}, a rewrite may move it by {allowed:.3g}")


def _outputs(model: Model, probes: Sequence[Feeds], level: Level = "default") -> list[Outputs]:
    """What a model answers; no session outlives this."""
    session = open_session(model, level=level)
    return [session.run(feeds) for feeds in probes]


def _largest_move(value: Any, wanted: Any, known: Any) -> float:
    return float(np.max(np.abs(value[known].astype(np.float64) - wanted[known]), initial=0.0))


def _same_bits(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other) if one.dtype == object else one.tobytes() == other.tobytes())


def _check(path: Path, evidence: Evidence) -> None:
    if evidence.check == "none":
        return
    try:
        onnx.checker.check_model(str(path), full_check=evidence.check == "full")
    except Exception as error:  # the checker raises several unrelated types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Broken(f"onnx's checker refuses it: {reason[0]}") from error


def _probe(session: Session, evidence: Evidence, *, lossless: bool) -> None:
    for feeds, outputs in zip(evidence.probes, evidence.probe_outputs, strict=True):
        expected = session.interface.fitted(outputs)
        for name, value in session.run(feeds).items():
            wanted = expected[name]
            if not isinstance(wanted, np.ndarray) or not isinstance(value, np.ndarray):
                continue
            if value.shape != wanted.shape:
                raise Broken(f"output {name!r} has shape {list(value.shape)}, the original's is {list(wanted.shape)}")
            if wanted.dtype.kind != "f":
                continue
            known = np.isfinite(wanted)
            if not np.isfinite(value[known]).all():
                raise Broken(f"output {name!r} is not finite where the original's is")
            if lossless and known.any():
                error = float(np.max(np.abs(value[known].astype(np.float64) - wanted[known])))
                scale = max(float(np.max(np.abs(wanted[known]))), 1e-6)
                allowed = max(LOSSLESS_TOLERANCE * scale, LEVEL_NOISE_FACTOR * evidence.noise.get(name, 0.0))
                if error > allowed:
                    raise Broken(f"output {name!r} moved by {error:.3g}, a lossless edit may move it by {allowed:.3g}")
