"""Write the forms that were asked for, each proven to answer as the model does."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxprune.comparison import inputs_for
from onnxprune.deployment.fixed_shapes import fix_shapes
from onnxprune.deployment.ort_format import SUFFIX, place_ort
from onnxprune.errors import ModelError, OptionError
from onnxprune.fidelity import Fidelity, compare
from onnxprune.judge import LEVEL_NOISE_FACTOR
from onnxprune.model import Model, load, save, size_on_disk
from onnxprune.packing import unpacked
from onnxprune.replaying import check_destination
from onnxprune.runtime import Feeds, Session, open_session, save_ort, written
from onnxprune.synthetic import parse_shapes, shaped

# Of the largest output: what another order of additions moves.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of the model that was written.

    Attributes:
        format: `onnx`, or `ort`.
        size_bytes: of the file and its data files.
        shapes: of its inputs where they are fixed.
        operators: for the ORT format, the file that lists what a reduced build must have.
        deviation: largest difference to the model's outputs, as a share of the largest output.
    """

    path: Path
    format: str
    size_bytes: int
    deviation: float
    shapes: dict[str, tuple[int, ...]] | None = None
    operators: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "path": str(self.path),
            "format": self.format,
            "size_bytes": self.size_bytes,
            "deviation": self.deviation,
            "shapes": None if self.shapes is None else {name: list(shape) for name, shape in self.shapes.items()},
            "operators": None if self.operators is None else str(self.operators),
        }


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The answer of `onnxprune deploy`: the model's own size, and the forms."""

    model: Path
    size_bytes: int
    forms: tuple[Form, ...]

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "model": str(self.model),
            "size_bytes": self.size_bytes,
            "forms": [form.to_json() for form in self.forms],
        }


def deploy(
    model: Path | str,
    *,
    fixed_shapes: Sequence[str] = (),
    ort: bool = False,
    output: Path | str | None = None,
    data: str | None = None,
    seed: int = 0,
) -> Deployed:
    """Write other forms of a model beside it, and run each against it.

    Args:
        model: the .onnx file.
        fixed_shapes: `NAME=1x128`; writes `STEM.fixed.onnx`, whose inputs have these sizes and no other.
        ort: writes `STEM.ort`, from the fixed form where there is one, and its list of operators.
        output: the stem of what is written; by default the model's own without `.onnx`.
        data: samples to prove the forms on; made-up ones without it.
        seed: of made-up samples.

    Raises:
        OnnxPruneError: the model or an option is at fault, or a form does not answer as the model does.
    """
    path = Path(model)
    if not fixed_shapes and not ort:
        raise OptionError("deploy writes nothing on its own. Ask for --fixed-shapes NAME=1x128, --ort, or both.")
    stem = Path(output) if output is not None else path.with_suffix("")
    check_destination(stem.with_name(f"{stem.name}{SUFFIX}"), path)
    loaded, session = load(path), open_session(path)
    feeds = inputs_for(loaded, session, data, {}, seed).feeds[0]
    # What is stored packed would be decoded at each run of the ORT format, and a provider would find odd operators.
    source, forms = unpacked(loaded)[0], list[Form]()
    if fixed_shapes:
        sizes = fixed_sizes(fixed_shapes)
        source = fix_shapes(source, session, sizes)
        feeds = shaped(loaded, session, sizes, feeds)
        forms.append(_fixed(path, source, stem.with_name(f"{stem.name}.fixed.onnx"), feeds))
    if ort:
        form = _ort(path, source, stem.with_name(f"{stem.name}{SUFFIX}"), feeds)
        forms.append(replace(form, shapes=forms[0].shapes) if forms else form)
    return Deployed(model=path, size_bytes=size_on_disk(path), forms=tuple(forms))


def fixed_sizes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Sizes by input name.

    Raises:
        OptionError: not of the form `NAME=1x128`.
    """
    try:
        return parse_shapes(tuple(texts))
    except OptionError as error:
        raise OptionError(str(error).replace("--shape:", "--fixed-shapes:", 1)) from error


def _fixed(path: Path, source: Model, place: Path, feeds: Feeds) -> Form:
    check_destination(place, path)
    with written(source) as trial:
        deviation = _proven(path, trial, place, feeds)
    save(source, place)
    shapes = {name: value.shape for name, value in feeds.items()}
    return Form(path=place, format="onnx", size_bytes=size_on_disk(place), deviation=deviation, shapes=shapes)


def _ort(path: Path, source: Model, place: Path, feeds: Feeds) -> Form:
    check_destination(place, path)
    with written(source) as dense, tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        made = Path(folder) / place.name
        save_ort(dense, made)
        deviation = _proven(path, made, place, feeds)
        operators = place_ort(made, place)
    return Form(path=place, format="ort", size_bytes=place.stat().st_size, deviation=deviation, operators=operators)


def _proven(path: Path, form: Path, place: Path, feeds: Feeds) -> float:
    """The largest relative difference of a form's outputs; refused where it is more than rounding."""
    reference = open_session(path)
    found = compare(reference, open_session(form), [feeds])
    verdict = found.within(TOLERANCE)
    if not verdict.passed and not _is_rounding(found, reference, path, feeds):
        raise ModelError(f"{place}: does not answer as {path} does: {verdict.why}. Ship the .onnx file instead.")
    return max((figures.deviation for figures in found.outputs.values()), default=0.0)


def _is_rounding(found: Fidelity, reference: Session, path: Path, feeds: Feeds) -> bool:
    """Whether outputs move no further than a few times what the model's own move between optimization levels.

    Where all outputs are next to nothing, as those of a detector that sees nothing, rounding is a large share of them.
    """
    if found.why is not None or not found.outputs:
        return False
    noise = compare(reference, open_session(path, level="none"), [feeds]).outputs
    return all(
        figures.deviation <= TOLERANCE
        or (figures.largest is not None and figures.deviation <= LEVEL_NOISE_FACTOR * noise[name].deviation < math.inf)
        for name, figures in found.outputs.items()
    )
