"""What commands that train share: a place for the result, samples, the original, and a judge of what came out."""

from __future__ import annotations

from pathlib import Path

from onnxprune.errors import DataError, ModelError
from onnxprune.fidelity import Fidelity
from onnxprune.judge import Broken, judge
from onnxprune.model import Model
from onnxprune.replaying import check_destination
from onnxprune.subject import Subject, load_subject

# Training takes many samples; of those held out so many judge.
_JUDGES = 256


def place_for(output: Path | str | None, model: Path, word: str, *others: Path) -> Path:
    """Where the result goes: `output`, or `NAME.WORD.onnx` beside the model.

    Raises:
        OutputError: no result can stand there, or it is the model or one of `others`.
    """
    place = Path(output) if output is not None else model.with_name(f"{model.stem}.{word}.onnx")
    for source in (model, *others):
        check_destination(place, source)
    return place


def check_samples(command: str, data: str | None, *, allow_synthetic: bool) -> None:
    """Refuse to train on inputs that nobody gave.

    Raises:
        DataError: there are none, and made-up ones are not allowed.
    """
    if data is None and not allow_synthetic:
        raise DataError(
            f"{command}: it needs sample inputs. Give --data, or --allow-synthetic to train on made-up ones."
        )


def load_teacher(path: Path, data: str | None, seed: int, mask: str | None, loss: str | None = None) -> Subject:
    """The original with all samples to train on and a few of those held out to judge by.

    Raises:
        OnnxPruneError: the model, the data or an option is at fault.
    """
    return load_subject(path, data, {}, seed, loss, mask, allow_synthetic=True, most_judges=_JUDGES)


def judged(model: Model, subject: Subject, path: Path, what: str, advice: str) -> Fidelity:
    """How near a model is to the original.

    Args:
        model: the candidate.
        subject: the original.
        path: the file that a message names.
        what: why it does not stand, before the reason.
        advice: what to do then.

    Raises:
        ModelError: it does not load or run, or gives something else.
    """
    try:
        return judge(model, subject.evidence, lossless=False)
    except Broken as reason:
        raise ModelError(f"{path}: {what}: {reason}. {advice}") from reason
