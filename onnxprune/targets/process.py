"""One process per target: a job goes in as JSON, an answer comes back; nothing that comes back is believed unseen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError, TargetError
from onnxprune.model import data_files
from onnxprune.npz import read_npz
from onnxprune.runtime import Feeds, first_line

SCHEMA = 1
# An answer of figures and node names is small; more is no answer.
MAX_ANSWER_BYTES = 2**26
# A process that fails tells why at the end of what it prints.
_TAIL_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Process:
    """How a target's worker starts.

    Attributes:
        command: the program and its arguments; the job's folder is added.
        environment: variables beside those that a process needs to live.
        limit_s: seconds beyond the asked time budget, after which the process is killed.
        counted: whether an emulator counts instructions: it is told where by `{counts}` in the command.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    limit_s: float = 300.0
    counted: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a worker answered, checked to be JSON of the right schema and no failure.

    Attributes:
        values: the answer's own fields.
        outputs: of each model, by name, where the task was to run.
        counts: of instructions at each marker, where they were counted.
    """

    values: Mapping[str, Any]
    outputs: tuple[Mapping[str, np.ndarray[Any, Any]], ...] = ()
    counts: tuple[int, ...] = ()


def ask(target: str, process: Process, job: Mapping[str, Any], paths: Sequence[Path], feeds: Sequence[Feeds]) -> Answer:
    """Have a target's worker do a job.

    Args:
        target: as reports name it.
        process: how the worker starts.
        job: providers, options and task, without the models.
        paths: of the models.
        feeds: of each model, one call's inputs.

    Raises:
        TargetError: the process died, took too long or answered nonsense, or the runtime refuses a model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        folder = Path(name)
        models = [str(path.resolve()) for path in paths]
        data = [[str(file.relative_to(path.parent)) for file in _data_files(path)] for path in paths]
        for at, own in enumerate(feeds):
            save_feeds(folder / f"feeds-{at}.npz", own)
        (folder / "job.json").write_text(
            json.dumps({"schema": SCHEMA, **job, "models": models, "data": data}), encoding="utf-8"
        )
        _finish(target, process, folder, process.limit_s + float(job.get("budget_s", 0)))
        values = read_answer(target, folder, paths)
        outputs = tuple(
            _outputs(target, folder / f"outputs-{at}.npz", names)
            for at, names in enumerate(_names(target, values, paths))
        )
        return Answer(values=values, outputs=outputs, counts=_counts(target, folder) if process.counted else ())


def _data_files(path: Path) -> tuple[Path, ...]:
    """Weights outside the model's file; a damaged file is the runtime's news."""
    try:
        return data_files(path)
    except Exception:  # noqa: BLE001 - protobuf's errors share no base class
        return ()


def save_feeds(path: Path, feeds: Feeds) -> None:
    """Feeds as an archive: names as one JSON text, arrays by number, so that any name will do."""
    arrays = {
        str(at): np.asarray(value, str) if value.dtype.hasobject else value for at, value in enumerate(feeds.values())
    }
    np.savez(path, **arrays | {"names": np.array(json.dumps(list(feeds)))})  # type: ignore[arg-type]


def _finish(target: str, process: Process, folder: Path, limit_s: float) -> None:
    command = [part.replace("{counts}", str(folder / "counts")) for part in process.command]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG", "SYSTEMROOT") if name in os.environ}
    with (folder / "output").open("wb") as output:
        try:
            running = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=kept | dict(process.environment),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(f"{target}: {command[0]} does not start: {error.strerror or error}.") from error
        with _killed_at_the_end(running):
            try:
                code = running.wait(limit_s)
            except subprocess.TimeoutExpired:
                raise TargetError(
                    f"{target}: no answer within {limit_s:.0f} s, so its process was killed and nothing was measured."
                ) from None
    if code:
        raise TargetError(f"{target}: its process {_ended(code)} and nothing was measured{_last_words(folder)}")


@contextmanager
def _killed_at_the_end(running: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process and all that it started are gone when the block ends, however it ends."""
    try:
        yield
    finally:
        try:
            os.killpg(running.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            running.kill()
        running.wait()


def _ended(code: int) -> str:
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with exit code {code}"


def _last_words(folder: Path) -> str:
    output = folder / "output"
    if not output.exists():
        return "."
    with output.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    # Debian's onnxruntime says so thousands of times whenever it starts; it means nothing.
    lines = [line for line in lines if "Schema error: Trying to register schema" not in line]
    return f": {_printable(lines[-1])}" if lines else "."


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:300]


def read_answer(target: str, folder: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """A worker's answer, which is no failure.

    Raises:
        TargetError: there is none, it is nonsense, or it tells of a failure.
    """
    values = _read(target, folder)
    if "failed" in values:
        raise _failure(target, values["failed"], paths)
    return values


def _read(target: str, folder: Path) -> dict[str, Any]:
    path = folder / "answer.json"
    try:
        if path.stat().st_size > MAX_ANSWER_BYTES:
            raise _nonsense(target, f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TargetError(f"{target}: its process ended without an answer{_last_words(folder)}") from None
    except (ValueError, RecursionError) as error:
        raise _nonsense(target, "an answer that is no JSON") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise _nonsense(target, f"an answer without schema {SCHEMA}")
    return values


def _nonsense(target: str, what: str) -> TargetError:
    return TargetError(f"{target}: its process gave {what}; nothing of it is used. Set the target up anew.")


def _failure(target: str, failed: Any, paths: Sequence[Path]) -> TargetError:
    if not isinstance(failed, dict):
        return _nonsense(target, "a failure without a reason")
    at, stage, why = failed.get("model"), failed.get("stage"), failed.get("why")
    if type(at) is not int or not 0 <= at < len(paths) or stage not in {"load", "run"} or not isinstance(why, str):
        return _nonsense(target, "a failure without a reason")
    verb = "refuses the model" if stage == "load" else "failed while running it"
    return TargetError(f"{paths[at].name}: {target} {verb}: {_printable(first_line(Exception(why)))}", model=at)


def _names(target: str, values: Mapping[str, Any], paths: Sequence[Path]) -> list[list[str]]:
    names = values.get("outputs", [])
    if not isinstance(names, list) or ("outputs" in values and len(names) != len(paths)):
        raise _nonsense(target, "outputs of another number of models")
    for own in names:
        if not isinstance(own, list) or not all(isinstance(name, str) for name in own):
            raise _nonsense(target, "outputs without names")
    return names


def _outputs(target: str, path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    try:
        arrays = read_npz(path)
    except DataError as error:
        raise _nonsense(target, "outputs that cannot be read") from error
    if not arrays.keys() <= {str(at) for at in range(len(names))}:
        raise _nonsense(target, "outputs that no model has")
    return {name: arrays[str(at)] for at, name in enumerate(names) if str(at) in arrays}


def _counts(target: str, folder: Path) -> tuple[int, ...]:
    try:
        lines = (folder / "counts").read_bytes()[:MAX_ANSWER_BYTES].split()
        counts = tuple(int(line) for line in lines)
    except (OSError, ValueError) as error:
        raise _nonsense(target, "counts of instructions that are no numbers") from error
    if any(later < earlier for earlier, later in pairwise(counts)):
        raise _nonsense(target, "counts of instructions that fall")
    return counts
