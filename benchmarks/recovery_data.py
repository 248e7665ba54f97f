"""Text to recover sentence encoders on: WordNet's definitions alone, none of which a task uses."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import packages, wordnet
from benchmarks.text import tokenizer

# Tasks take their nouns from the front of the shuffled list, calibration from its end.
_FIRST = 5000
_SAMPLES = 64_000
_TOKENS = 96
# Queries are single words and documents are long, so that both stand beside whole definitions.
_FRAGMENTS, _JOINED = 0.2, 0.1


def training_file() -> Path:
    """Return an `.npz` of [samples, 96] tokens, keyed by MiniLM's inputs, made on first use."""
    target = packages.cache_folder("calibration") / "minilm-recovery.npz"
    if not target.exists():
        with packages.written(target) as partial:
            arrays: dict[str, Any] = dict(_samples())
            np.savez(partial, **arrays)
    return target


def _samples() -> dict[str, NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    definitions = [noun.definition for noun in wordnet.nouns()[_FIRST:]]
    ids = np.zeros((_SAMPLES, _TOKENS), np.int64)
    mask = np.zeros_like(ids)
    for row in range(_SAMPLES):
        tokens = tokenizer().encode(_text(definitions, row, generator)).ids
        kept = [*tokens[: _TOKENS - 1], tokens[-1]] if len(tokens) > _TOKENS else tokens
        ids[row, : len(kept)], mask[row, : len(kept)] = kept, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _text(definitions: list[str], row: int, generator: np.random.Generator) -> str:
    definition = definitions[row % len(definitions)]
    kind = generator.random()
    if kind < _FRAGMENTS:
        words = definition.split()
        count = int(generator.integers(1, 5))
        start = int(generator.integers(0, max(1, len(words) - count + 1)))
        return " ".join(words[start : start + count])
    if kind < _FRAGMENTS + _JOINED:
        others = generator.integers(0, len(definitions), int(generator.integers(1, 5)))
        return ". ".join([definition, *(definitions[other] for other in others)])
    return definition
