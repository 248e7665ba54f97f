"""The models of `fixtures/` as the other models: task scores that keep every item, and sample inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scores import Items, Score, mean
from benchmarks.sessions import open_session
from fixtures.score import BATCH, FIXTURES

Arrays = dict[str, NDArray[Any]]


def arrays(name: str, kind: str) -> Arrays:
    """Return `samples`, held out, or `calibration` of a fixture."""
    with np.load(FIXTURES / name / f"{kind}.npz") as stored:
        return dict(stored)


def accuracy(name: str) -> Callable[[Path], tuple[Score, ...]]:
    """Return what scores a classifier: share of held-out samples whose largest logit is at the label."""

    def scores(path: Path) -> tuple[Score, ...]:
        held = arrays(name, "samples")
        right = _logits(path, held).argmax(axis=-1) == held["labels"]
        return (Score(task="held-out accuracy", items=right.astype(float)[:, None], statistic=mean),)

    return scores


def perplexity(name: str) -> Callable[[Path], tuple[Score, ...]]:
    """Return what scores a language model: perplexity of held-out blocks, the first token of each given."""

    def scores(path: Path) -> tuple[Score, ...]:
        held = arrays(name, "samples")
        logits, following = _logits(path, held)[:, :-1].astype(np.float64), held["input_ids"][:, 1:, None]
        logits -= logits.max(axis=-1, keepdims=True)
        losses = np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(logits, following, axis=-1)[..., 0]
        items = losses.mean(axis=1, keepdims=True)
        return (Score(task="held-out perplexity", items=items, statistic=_exponential, higher_is_better=False),)

    return scores


def _exponential(items: Items) -> float:
    return float(np.exp(items[:, 0].mean()))


def _logits(path: Path, held: Arrays) -> NDArray[Any]:
    session = open_session(path)
    names = [entry.name for entry in session.get_inputs()]
    count = len(held[names[0]])
    rows = [
        session.run(["logits"], {name: held[name][at : at + BATCH] for name in names})[0]
        for at in range(0, count, BATCH)
    ]
    return np.concatenate(rows)
