"""WordNet's noun definitions as samples: some to train on, some held out, made once."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import packages
from benchmarks.gpt import FIXTURE

Array = np.ndarray[Any, Any]
WORDNET = "usr/share/wordnet"


def parts(name: str, test: int, made: Callable[[], Mapping[str, Array]]) -> tuple[Path, Path]:
    """Return two .npz, samples to train on and the first `test` ones held out; `made` tells all on first use."""
    places = [packages.cache_folder("calibration") / f"{name}-{part}.npz" for part in ("training", "test")]
    if not all(place.exists() for place in places):
        arrays = made()
        for place, rows in zip(places, (slice(test, None), slice(None, test)), strict=True):
            with packages.written(place) as partial:
                told: dict[str, Any] = {key: values[rows] for key, values in arrays.items()}
                np.savez_compressed(partial, **told)
    return places[0], places[1]


def definitions() -> tuple[list[str], Array]:
    """Return the definitions, and of each which of WordNet's 25 noun files it is from [n]."""
    sys.path.append(str(FIXTURE.parent))
    from text import definitions as read

    texts, classes = read(packages.debian("wordnet-base") / WORDNET)
    return texts, classes


def tokenizer() -> Any:
    """Return that of `fixtures/gloss-gpt`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(FIXTURE / "tokenizer.json"))
