"""Edits, plans and reports as frozen data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from onnxprune.errors import PlanError
from onnxprune.files import atomic, require_space
from onnxprune.tensorfile import chunks, read_tensors

Tensors = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change at one site.

    Attributes:
        id: unique in its plan, `{pass}.{site}` with a counter where a site is edited more than once.
        pass_name: name of the pass that proposed it and can apply it.
        site: id of the site.
        kind: what is done, in the pass's own vocabulary, e.g. `quantize-linear` or `remove-units`.
        args: JSON values; everything that `apply` needs besides the tensors.
        depends_on: ids of edits that must be applied before; reverting one of them drops this edit too.
        tensors: solved values by short name; they are stored as `{id}/{name}` beside the plan.
        turn: which run of the pass it belongs to, where the pass ran more than once; edits of one turn are applied
            together.
    """

    id: str
    pass_name: str
    site: str
    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    tensors: Tensors = field(default_factory=dict)
    turn: int = 1


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one edit did. Parameters count numbers, bytes count their storage in the file."""

    site: str
    what: str
    params_before: int = 0
    params_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A site that was left alone, or an edit that was reverted, and the true reason."""

    site: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one pass changed, what it left alone and why, and which of its edits were taken back."""

    pass_spec: str
    changes: tuple[Change, ...] = ()
    skips: tuple[Skip, ...] = ()
    reverted: tuple[Skip, ...] = ()


SCHEMA = "onnxprune.plan/1"
# A plan's own text is small; anything larger is not one of ours.
_LARGEST_PLAN_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that turns one model into another without looking at data again.

    Attributes:
        model_sha256: of the model file that the edits were made for.
        versions: of the packages that made the plan.
        options: what was asked, as JSON values.
    """

    model_sha256: str
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    seed: int
    edits: tuple[Edit, ...] = ()

    def without(self, ids: frozenset[str]) -> tuple[Plan, frozenset[str]]:
        """The plan less some edits and all that depend on them, and the ids of everything dropped."""
        kept, dropped = without(self.edits, ids)
        return replace(self, edits=kept), dropped


def without(edits: Sequence[Edit], ids: Collection[str]) -> tuple[tuple[Edit, ...], frozenset[str]]:
    """Edits less those of `ids` and all that depend on them, directly or not; and the ids of everything dropped."""
    dropped = set(ids)
    kept = []
    for edit in edits:
        if edit.id in dropped or dropped.intersection(edit.depends_on):
            dropped.add(edit.id)
        else:
            kept.append(edit)
    return tuple(kept), frozenset(dropped)


def turns(edits: Sequence[Edit]) -> Iterator[tuple[Edit, ...]]:
    """Edits that are applied together: those of one pass in one turn, in order."""
    for _, group in groupby(edits, key=lambda edit: (edit.pass_name, edit.turn)):
        yield tuple(group)


def in_turn(edits: Sequence[Edit], before: Sequence[Edit]) -> tuple[Edit, ...]:
    """One pass's edits as the plan holds them after others: told from those of its earlier turns, their ids unique."""
    if not edits:
        return ()
    turn = 1 + max((one.turn for one in before if one.pass_name == edits[0].pass_name), default=0)
    taken = {one.id for one in before}
    names = {edit.id: f"{edit.id}~{turn}" if edit.id in taken else edit.id for edit in edits}
    return tuple(
        replace(edit, id=names[edit.id], turn=turn, depends_on=tuple(names.get(name, name) for name in edit.depends_on))
        for edit in edits
    )


def with_dependencies(edit: Edit, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """An edit after those of `edits` that it depends on, directly or not, in their order."""
    by_id = {other.id: other for other in edits}
    wanted, queue = {edit.id}, [edit]
    while queue:
        for name in queue.pop().depends_on:
            if name in by_id and name not in wanted:
                wanted.add(name)
                queue.append(by_id[name])
    return tuple(other for other in edits if other.id in wanted)


def write_plan(plan: Plan, path: Path) -> None:
    """Write `path` (JSON) and the tensors beside it (`.safetensors`), both or neither.

    Raises:
        OutputError: the place cannot be written.
    """
    with plan_files(plan, path):
        pass


@contextmanager
def plan_files(plan: Plan, path: Path) -> Iterator[None]:
    """A plan's two files: they take their places when the block ends well, and vanish when it does not.

    Raises:
        OutputError: the place cannot be written.
    """
    named = tensors_of(plan.edits)
    state = hashlib.sha256()
    for chunk in chunks(named):
        state.update(chunk)
    document = {
        "schema": SCHEMA,
        "model_sha256": plan.model_sha256,
        "tensors_sha256": state.hexdigest(),
        "versions": dict(plan.versions),
        "options": dict(plan.options),
        "seed": plan.seed,
        "edits": edits_to_json(plan.edits),
    }
    require_space(path, sum(array.nbytes for array in named.values()))
    with atomic(path) as file, atomic(tensor_path(path)) as tensors:
        tensors.writelines(chunks(named))
        file.write((json.dumps(document, indent=1) + "\n").encode())
        # A disk that is full says so now, before anything else takes its place.
        tensors.flush()
        file.flush()
        yield


def read_plan(path: Path) -> Plan:
    """Read a plan and map its tensors. A plan is data: nothing in it is run.

    Raises:
        PlanError: not a plan, or its tensors are missing or damaged.
    """
    try:
        if path.stat().st_size > _LARGEST_PLAN_BYTES:
            raise PlanError(f"{path}: a plan is at most {_LARGEST_PLAN_BYTES} bytes. This is another file.")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}). Name the .json that optimize wrote.") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: not JSON ({error}). Name the .json file that optimize wrote.") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise PlanError(f"{path}: not a plan of schema {SCHEMA}. Make it again with this version of optimize.")
    beside = tensor_path(path)
    try:
        tensors, _ = read_tensors(beside)
        with beside.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        raise PlanError(f"{beside}: the plan's tensors cannot be read ({error}). Keep both files together.") from error
    # Plans that people write state no digest.
    if document.get("tensors_sha256", "") not in {"", actual}:
        raise PlanError(f"{beside}: not the tensors of {path.name}, or damaged. Copy both files again.")
    try:
        return Plan(
            model_sha256=str(document["model_sha256"]),
            versions=dict(document["versions"]),
            options=dict(document["options"]),
            seed=int(document["seed"]),
            edits=tuple(edit_from_json(entry, tensors) for entry in document["edits"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PlanError(f"{path}: not a whole plan: {error!r}. Make it again with optimize.") from error


def tensor_path(path: Path) -> Path:
    """Where a plan's tensors lie: beside it."""
    return path.with_suffix(".safetensors")


def edits_to_json(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """Edits as JSON values; their tensors, which are named here, are stored apart."""
    return [
        {
            "id": edit.id,
            "pass": edit.pass_name,
            "site": edit.site,
            "kind": edit.kind,
            "args": dict(edit.args),
            "depends_on": list(edit.depends_on),
            "tensors": sorted(edit.tensors),
            **({"turn": edit.turn} if edit.turn != 1 else {}),
        }
        for edit in edits
    ]


def tensors_of(edits: Sequence[Edit]) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of edits, under the names by which they are stored."""
    return {f"{edit.id}/{name}": array for edit in edits for name, array in edit.tensors.items()}


def edit_from_json(entry: Mapping[str, Any], tensors: Tensors) -> Edit:
    """The edit of an entry of `edits_to_json`.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    return Edit(
        id=str(entry["id"]),
        pass_name=str(entry["pass"]),
        site=str(entry["site"]),
        kind=str(entry["kind"]),
        args=dict(entry["args"]),
        depends_on=tuple(str(name) for name in entry["depends_on"]),
        tensors={str(name): tensors[f"{entry['id']}/{name}"] for name in entry["tensors"]},
        turn=int(entry.get("turn", 1)),
    )
