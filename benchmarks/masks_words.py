"""Classifiers of bags of tokens trained from scratch by `onnxprune train`: sparse and large beside dense and small.

The task is that of `fixtures/gloss-classifier`: which of WordNet's 25 noun files a definition is from, here told from
how often each of the 1024 tokens of `fixtures/gloss-gpt` stands in it.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks import glosses
from onnxprune import train
from onnxprune.graph import constants, numbers
from onnxprune.model import load
from onnxprune.runtime import open_session

_TOKENS, _CLASSES = 1024, 25
_LARGE, _SPARSITY = 128, 0.9
_TRAINING, _TEST = 8000, 4000
_OPTIONS = ("steps=800", "batch=64", "check=800", "decay=0.01")
_RATES = (0.003, 0.01)
Array = np.ndarray[Any, Any]


def large_sparse_and_small_dense(seed: int) -> dict[str, float]:
    """Per cent of errors on 4000 held-out definitions, and how many numbers are not zero in each."""
    numbers_left = _numbers(_LARGE) - round(_SPARSITY * _matrices(_LARGE))
    # At least as many numbers as the sparse one has left.
    width = next(width for width in range(1, _LARGE) if _numbers(width) >= numbers_left)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        large, small = (untrained(Path(folder), width, seed) for width in (_LARGE, width))
        for name, model, sparsity in (
            ("large-sparse", large, _SPARSITY),
            ("small-dense", small, 0.0),
            ("large, dense", large, 0.0),
        ):
            errors = []
            for rate in _RATES:
                path = _trained(model, sparsity, rate, seed)
                errors.append(_error(path))
                figures[f"{name}, lr {rate:g}"] = errors[-1]
            figures[name] = min(errors)
            figures[f"non-zero, {name}"] = _nonzero(path)
    return figures


def untrained(folder: Path, width: int, seed: int) -> Path:
    """Tokens [batch, 1024] to logits [batch, 25] over one layer of hidden units, with numbers as they are drawn."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), np.float32)

    held = {"first": drawn(_TOKENS, width), "first_bias": np.zeros(width, np.float32)}
    held |= {"last": drawn(width, _CLASSES), "last_bias": np.zeros(_CLASSES, np.float32)}
    nodes = [
        helper.make_node("Gemm", ["tokens", "first", "first_bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "last", "last_bias"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("tokens", onnx.TensorProto.FLOAT, ("batch", _TOKENS))]
    outputs = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("batch", _CLASSES))]
    tensors = [numpy_helper.from_array(values, name) for name, values in held.items()]
    graph = helper.make_graph(nodes, "words", inputs, outputs, tensors)
    path = folder / f"words-{width}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _trained(model: Path, sparsity: float, rate: float, seed: int) -> Path:
    os.environ["ONNXPRUNE_CACHE"] = "off"
    options = [*_OPTIONS, f"sparsity={sparsity}", f"lr={rate}"]
    output = model.with_name(f"{model.stem}-trained.onnx")
    return train(
        model, "gradual-magnitude", data=str(samples()[0]), output=output, options=options, seed=seed, loss="labels"
    ).output


def _error(path: Path) -> float:
    with np.load(samples()[1]) as held:
        logits = open_session(path).run({"tokens": held["tokens"]})["logits"]
        return round(100 * float(np.mean(logits.argmax(-1) != held["labels"])), 2)


def _matrices(width: int) -> int:
    return width * (_TOKENS + _CLASSES)


def _numbers(width: int) -> int:
    return _matrices(width) + width + _CLASSES


def _nonzero(path: Path) -> int:
    return sum(int(np.count_nonzero(numbers(constant))) for constant in constants(load(path).graph))


def samples() -> tuple[Path, Path]:
    """(8000 samples to train on, 4000 held out), made on first use."""
    return glosses.parts("gloss-words", _TEST, _samples)


def _samples() -> dict[str, Array]:
    """How often each token stands in each definition [n, 1024], and its class [n]."""
    texts, classes = glosses.definitions()
    order = np.random.default_rng(0).permutation(len(texts))[: _TRAINING + _TEST]
    counts = np.zeros((len(order), _TOKENS), np.float32)
    for row, one in enumerate(glosses.tokenizer().encode_batch([texts[int(at)] for at in order])):
        np.add.at(counts[row], one.ids, 1)
    return {"tokens": counts, "labels": classes[order]}
