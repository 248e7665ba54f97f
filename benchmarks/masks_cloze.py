"""A task for the language model of `fixtures/gloss-gpt`: which of WordNet's 25 noun files a definition is from.

A sample is the first 15 tokens of a definition and `<|end|>`, whose next token is to be the word of its file: a cloze,
so that the model's own head answers and nothing is added to the graph.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import glosses
from benchmarks.gpt import FIXTURE
from onnxprune import train
from onnxprune.bitmasks import masked, weights_digest
from onnxprune.learn.masking import Pattern
from onnxprune.learn.matrices import matrices
from onnxprune.model import load, save
from onnxprune.runtime import open_session

_LENGTH, _TRAINING, _TEST = 16, 3000, 1000
_NOWHERE = -100
_BATCH = ("batch=32", "warmup=0.1")
_MASK_STEPS, _CAP_STEPS, _TUNE_STEPS = 150, 150, 200
_CAP_SPARSITY = 0.8
Array = np.ndarray[Any, Any]


def masks_over_frozen_weights(seed: int) -> dict[str, float]:
    """Accuracy of learned, magnitude's and random masks over the same weights, half of which stay."""
    base = FIXTURE / "model.onnx"
    model, before = load(base), base.read_bytes()
    digest = weights_digest(model)
    some = matrices(model, {constant.name for constant in _constants(model)}, head=False)
    rng = np.random.default_rng(seed)
    stored = {constant.name: np.array(constant.values) for constant in _constants(model)}
    magnitude = {one.name: Pattern().mask(one, np.abs(stored[one.name]), 0.5) for one in some}
    drawn = {one.name: Pattern().mask(one, rng.random(one.shape), 0.5) for one in some}
    figures: dict[str, float] = {"dense, frozen": accuracy(base)}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, masks in (("magnitude mask", magnitude), ("random mask", drawn)):
            save(masked(model, masks), place / "masked.onnx")
            figures[name] = accuracy(place / "masked.onnx")
        for name, shares in (("learned mask, SMP-L", "shares=matrix"), ("learned mask, SMP-S", "shares=type")):
            penalty = "penalty=5" if shares == "shares=type" else "penalty=0"
            options = ("sparsity=0.5", shares, penalty)
            path, files = tuned(base, place, "mask-only", seed, _MASK_STEPS, *options)
            figures[name] = accuracy(path)
            figures[f"bytes of the mask{name.removeprefix('learned mask')}"] = files[0].stat().st_size
        figures["bytes of the base"] = base.stat().st_size
    figures["weights that changed"] = float(base.read_bytes() != before or weights_digest(load(base)) != digest)
    return figures


def contrast_beside_distillation(seed: int) -> dict[str, float]:
    """Per cent of errors at four fifths of zeros: movement, with distillation, and with contrastive terms as well."""
    pretrained = FIXTURE / "model.onnx"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        dense, _ = tuned(pretrained, place, "gradual-magnitude", seed, _TUNE_STEPS, "sparsity=0.0", "lr=0.001")
        dense = dense.rename(place / "tuned.onnx")
        figures = {"tuned, dense": _error(dense)}
        sparse = (f"sparsity={_CAP_SPARSITY}", "lr=0.001")
        runs = {
            "movement": ("movement", "distill=0"),
            "movement and distillation": ("movement", "distill=0.9"),
            "CAP": ("cap", f"pretrained={pretrained}", "distill=0.9"),
        }
        for name, (method, *options) in runs.items():
            path, _ = tuned(dense, place, method, seed, _CAP_STEPS, *sparse, *options)
            figures[name] = _error(path)
    return figures


def _error(path: Path) -> float:
    """Per cent that are wrong."""
    return round(100 * (1 - accuracy(path)), 2)


def tuned(
    model: Path, folder: Path, method: str, seed: int, steps: int, *options: str
) -> tuple[Path, tuple[Path, ...]]:
    """The file that `onnxprune train` makes for the task, and what stands beside it."""
    os.environ["ONNXPRUNE_CACHE"] = "off"
    given = (f"steps={steps}", f"check={steps}", *_BATCH, *options)
    output = folder / f"{method}.onnx"
    result = train(model, method, data=str(samples()[0]), output=output, options=given, seed=seed, loss="labels")
    return result.output, result.files


def accuracy(path: Path) -> float:
    """Share of 1000 held-out definitions whose file's word scores highest among the 25."""
    with np.load(samples()[1]) as held:
        ids, labels = held["input_ids"], held["labels"]
    words = np.unique(labels[labels >= 0])
    session = open_session(path)
    logits = np.concatenate([session.run({"input_ids": each})["logits"] for each in np.array_split(ids, 10)])
    return float(np.mean(words[logits[:, -1, words].argmax(-1)] == labels[:, -1]))


def samples() -> tuple[Path, Path]:
    """(3000 samples to train on, 1000 held out), made on first use."""
    return glosses.parts("gloss-cloze", _TEST, _samples)


def _samples() -> dict[str, Array]:
    """input_ids [n, 16] and labels [n, 16], which are -100 but at the end."""
    texts, classes = glosses.definitions()
    from text import NOUN_FILES

    tokenizer = glosses.tokenizer()
    end = tokenizer.token_to_id("<|end|>")
    words: list[int] = []
    for name in NOUN_FILES.values():
        words.append(next(token for token in tokenizer.encode(f" {name}").ids if token not in words))
    begun = [one.ids[: _LENGTH - 1] for one in tokenizer.encode_batch(texts)]
    kept = [(ids, label) for ids, label in zip(begun, classes, strict=True) if len(ids) == _LENGTH - 1]
    ids = np.array([[*one, end] for one, _ in kept], np.int64)
    labels = np.full(ids.shape, _NOWHERE, np.int64)
    labels[:, -1] = np.array(words)[[int(label) for _, label in kept]]
    order = np.random.default_rng(0).permutation(len(ids))[: _TRAINING + _TEST]
    return {"input_ids": ids[order], "labels": labels[order]}


def _constants(model: Any) -> list[Any]:
    from onnxprune.graph import constants

    return list(constants(model.graph))
