"""A plan carried out on the model that it was made for: no data is read, the result has the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxprune.errors import Declined, ModelError, OnnxPruneError, OutputError, PlanError
from onnxprune.memory import job_memory, read_limit
from onnxprune.model import Model, digest, load, save, size_on_disk
from onnxprune.packing import unpacked
from onnxprune.passes import known
from onnxprune.plan import Edit, read_plan, turns
from onnxprune.runtime import open_session
from onnxprune.targets.settings import with_setting


def apply(
    model: Path | str,
    plan: Path | str,
    output: Path | str,
    *,
    force: bool = False,
    max_memory: str | int | None = None,
) -> None:
    """Replay a plan on the model it was made for; the result has the same bytes.

    Args:
        model: the original .onnx file.
        plan: the .json file that `optimize` wrote; its tensors lie beside it.
        output: where the result goes.
        force: replay on another model than the plan's.
        max_memory: as for `optimize`.

    Raises:
        PlanError: the plan belongs to another model or does not fit it.
    """
    path, destination = Path(model), Path(output)
    check_destination(destination, path)
    with job_memory(read_limit(max_memory), size_on_disk(path)):
        loaded, _ = unpacked(load(path))
        read = read_plan(Path(plan))
        actual = digest(path)
        if read.model_sha256 != actual and not force:
            raise PlanError(
                f"{plan}: made for the model with sha256 {read.model_sha256[:12]}…, {path} has {actual[:12]}…. "
                "Give the original model."
            )
        result = with_setting(replay(loaded, read.edits), read.options)
        try:
            open_session(result)
        except ModelError as error:
            raise PlanError(f"{plan}: its result does not load: {error} Make the plan again with optimize.") from error
        save(result, destination)


def replay(model: Model, edits: Sequence[Edit]) -> Model:
    """The model with a plan's edits carried out in order.

    Raises:
        PlanError: an edit names an unknown pass, or does not fit the model.
    """
    passes = known()
    for group in turns(edits):
        name = group[0].pass_name
        if name not in passes:
            raise PlanError(f"The plan needs pass {name!r}. Known: {', '.join(sorted(passes))}.")
        try:
            model, _ = passes[name]().apply(model, group)
        except Declined as reason:
            raise PlanError(f"The plan does not fit the model: {reason}.") from reason
        except OnnxPruneError:
            raise
        except Exception as error:
            # A plan is a stranger's file; whatever its numbers trip over is its own fault.
            raise PlanError(f"The plan is damaged: pass {name!r} failed with {error!r}.") from error
    return model


def check_destination(destination: Path, source: Path) -> None:
    """Refuse a place where no result can stand.

    Raises:
        OutputError: its folder is missing, it is a folder, or it is the input itself.
    """
    try:
        if not destination.parent.is_dir():
            raise OutputError(f"{destination.parent}: no such folder. Make it or choose another place with --output.")
        if destination.is_dir():
            raise OutputError(f"{destination}: is a folder. Name a file with --output.")
        if source.exists() and destination.exists() and destination.samefile(source):
            raise OutputError(f"{destination}: is the input itself. Choose another place with --output.")
    except OSError as error:
        # A name that is too long, for instance.
        why = error.strerror or str(error)
        raise OutputError(f"{destination}: cannot be written: {why}. Choose another place with --output.") from error
