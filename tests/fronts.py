"""A small model with samples, and wishes that make a front of it: for the tests and the benchmark of clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests import graphs

# With the default pipeline twelve points.
RECIPES = (
    "sparse-int8:linears=stored",
    "sparse-int8:linears=stored,sparsity=0.5",
    "sparse-int8:linears=stored,bits=4",
    "remove-heads:keep=3 sparse-int8:linears=stored",
    "remove-heads:keep=2 sparse-int8:linears=stored",
    "remove-heads:keep=1",
    "remove-heads:keep=2,score=magnitude",
    "remove-neurons:keep=0.75",
    "remove-neurons:keep=0.5",
    "remove-neurons:keep=0.25",
    "remove-heads:keep=2 remove-neurons:keep=0.5",
)


def prepared(folder: Path, samples: int) -> tuple[Path, str]:
    """A transformer of one layer and so many samples."""
    path = graphs.saved(graphs.layers(1), folder)
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(samples)]
    np.savez(folder / "data.npz", x=np.stack([feed["x"] for feed in feeds]))
    return path, str(folder / "data.npz")
