"""What each model is good for: its task scores, sample inputs to calibrate with, and one input to time.

python -m benchmarks.tasks MODEL [CANDIDATE.onnx ...]     scores, candidates paired with the model's own file
python -m benchmarks.tasks MODEL --data                   write calibration inputs and print their path
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import committed, filetypes, images, models, names, ocr, packages, paired, speech, text
from benchmarks.scores import Score
from benchmarks.sessions import open_session

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What belongs to a family of models.

    Attributes:
        scores: file -> scores; None where no data with known answers is to be had.
        calibration: -> sample inputs in the form that `onnxprune optimize --data` reads; None: inputs are synthesised.
        shapes: of the inputs to time, where there is no calibration data to take them from.
        kind: what tools that treat kinds of models differently must be told.
        transformer: type, heads and width, as optimizers of transformers ask for them.
    """

    scores: Callable[[Path], tuple[Score, ...]] | None = None
    calibration: Callable[[], Arrays] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kind: str = "convolutions"
    transformer: Mapping[str, Any] = field(default_factory=dict)


# By the longest prefix of a model's name.
TASKS = {
    "minilm": Task(
        scores=text.scores,
        calibration=text.calibration,
        kind="transformer",
        transformer={"model_type": "bert", "heads": 12, "width": 384},
    ),
    "albert": Task(
        shapes={"input_ids": (1, 128)},
        kind="transformer",
        transformer={"model_type": "bert", "heads": 8, "width": 256},
    ),
    "gloss-classifier": Task(
        scores=committed.accuracy("gloss-classifier"),
        calibration=lambda: committed.arrays("gloss-classifier", "calibration"),
        kind="transformer",
        transformer={"model_type": "bert", "heads": 8, "width": 128},
    ),
    "gloss-gpt": Task(
        scores=committed.perplexity("gloss-gpt"),
        calibration=lambda: committed.arrays("gloss-gpt", "calibration"),
        kind="transformer",
        transformer={"model_type": "gpt2", "heads": 6, "width": 96},
    ),
    "fashion-convnet": Task(
        scores=committed.accuracy("fashion-convnet"),
        calibration=lambda: committed.arrays("fashion-convnet", "calibration"),
    ),
    "effnet": Task(scores=images.classification, calibration=images.calibration),
    "ppocr-rec": Task(scores=ocr.recognition, calibration=ocr.recognition_calibration),
    "ppocr-det": Task(scores=ocr.detection, calibration=ocr.detection_calibration),
    "ppocr-cls": Task(calibration=ocr.classifier_calibration),
    "silero": Task(
        scores=speech.detection,
        calibration=lambda: speech.calibration(models.get("silero-16k")),
        kind="recurrent",
    ),
    "magika": Task(scores=filetypes.classification, calibration=filetypes.calibration),
    "arabic-encoder": Task(
        scores=lambda path: names.spelling(path, models.get("arabic-decoder")),
        calibration=names.encoder_calibration,
        kind="recurrent",
    ),
    "arabic-decoder": Task(
        scores=lambda path: names.spelling(models.get("arabic-encoder"), path),
        calibration=lambda: names.decoder_calibration(models.get("arabic-encoder"), models.get("arabic-decoder")),
        kind="recurrent",
    ),
    "int8": Task(kind="quantized", shapes={"input": (1, 64), "input_ids": (1, 64), "src": (1, 24), "tgt_in": (1, 24)}),
}


def of(model: str) -> Task:
    """Return the task of the model named."""
    return TASKS[max((prefix for prefix in TASKS if model.startswith(prefix)), key=len)]


def calibration_file(model: str) -> Path | None:
    """Return an `.npz` of sample inputs that no task uses, made on first use; None where there are none."""
    task = of(model)
    if task.calibration is None:
        return None
    family = next(prefix for prefix, known in TASKS.items() if known is task)
    target = packages.cache_folder("calibration") / f"{family}.npz"
    if not target.exists():
        with packages.written(target) as partial:
            arrays: dict[str, Any] = dict(task.calibration())
            np.savez(partial, **arrays)
    return target


def feed(model: str) -> dict[str, NDArray[Any]]:
    """Return one real input of batch 1 to time the model named with; text is a full line of 128 tokens."""
    path = models.get(model)
    data = calibration_file(model)
    if data is None:
        return paired.synthetic(path, of(model).shapes)
    with np.load(data) as stored:
        arrays = dict(stored)
    # The sample with most to do: text without padding.
    best = int(arrays["attention_mask"].sum(axis=1).argmax()) if "attention_mask" in arrays else 0
    made = {}
    for entry in open_session(path).get_inputs():
        stack = arrays[entry.name] if entry.name in arrays else next(iter(arrays.values()))
        made[entry.name] = np.asarray(stack[best]) if stack.ndim > len(entry.shape) else stack[best : best + 1]
    return made


def report(scores: tuple[Score, ...], references: tuple[Score, ...]) -> list[dict[str, Any]]:
    """Return the scores as JSON values, each beside the reference's on the same items."""
    rows = []
    for own, reference in zip(scores, references, strict=True):
        low, high = own.interval()
        difference, worst, best = own.against(reference)
        rows.append({
            "task": own.task,
            "n": len(own.items),
            "value": own.value,
            "low": low,
            "high": high,
            "reference": reference.value,
            "difference": difference,
            "difference_low": worst,
            "difference_high": best,
            "loss": own.loss(reference),
        })  # fmt: skip
    return rows


def main(arguments: list[str]) -> None:
    """Print the scores of a model and of candidates for its place as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=sorted(models.MODELS))
    parser.add_argument("candidates", nargs="*", type=Path)
    parser.add_argument("--data", action="store_true", help="write calibration inputs instead")
    asked = parser.parse_args(arguments)
    if asked.data:
        print(calibration_file(asked.model) or f"{asked.model} has no calibration inputs.")
        return
    scores = of(asked.model).scores
    if scores is None:
        raise SystemExit(f"{asked.model} has no task with known answers.")
    path = models.get(asked.model)
    reference = scores(path)
    files = {str(path): reference} | {str(candidate): scores(candidate) for candidate in asked.candidates}
    print(json.dumps({file: report(own, reference) for file, own in files.items()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
