"""Small language models trained from scratch by `onnxprune train`: sparse and large beside dense and small.

    python -m benchmarks.masks_language SEED [STEPS]

No row of the papers' table: it costs minutes a seed, and what it came to is told beside the row `gradual-magnitude`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpt import export, held_out_perplexity, training_file
from onnxprune import train
from onnxprune.graph import constants, numbers
from onnxprune.learn.matrices import matrices
from onnxprune.model import Model, load

_LAYERS, _HEADS, _CONTEXT, _VOCABULARY = 3, 4, 64, 1024
_LARGE, _SMALL = 64, 32
_STEPS = 300
_TRAINING = ("batch=16", "decay=0.05", "embeddings=yes")


def large_sparse_and_small_dense(seed: int, steps: int = _STEPS) -> dict[str, float]:
    """Held-out perplexities, and how many numbers are not zero in each."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        large, small = (untrained(place, width, seed) for width in (_LARGE, _SMALL))
        sparsity = _sparsity(load(large), _nonzero(load(small)))
        length = (f"steps={steps}", f"check={steps}")
        sparse = trained(large, "gradual-magnitude", seed, f"sparsity={sparsity:.6f}", "lr=0.003", *length)
        # Nothing is zero: plain training by the same loop.
        dense = [
            trained(small, "gradual-magnitude", seed, "sparsity=0.0", f"lr={rate}", *length) for rate in (0.003, 0.006)
        ]
        perplexities = [held_out_perplexity(path) for path in dense]
        return {
            "large-sparse": held_out_perplexity(sparse),
            "small-dense": min(perplexities),
            "small-dense, lr 3e-3": perplexities[0],
            "small-dense, lr 6e-3": perplexities[1],
            "non-zero, large-sparse": _nonzero(load(sparse)),
            "non-zero, small-dense": _nonzero(load(dense[0])),
            "sparsity of matrices": sparsity,
        }


def trained(model: Path, method: str, seed: int, *options: str) -> Path:
    """The file that `onnxprune train` makes, in the model's folder."""
    os.environ["ONNXPRUNE_CACHE"] = "off"
    name = "-".join([model.stem, method, *(option.replace("=", "") for option in options)])[:100]
    result = train(
        model, method, data=str(training_file()), output=model.with_name(f"{name}.onnx"),
        options=[*_TRAINING, *options], seed=seed, loss="next-token",
    )  # fmt: skip
    return result.output


def untrained(folder: Path, width: int, seed: int) -> Path:
    """A GPT-2 of a width with numbers as they are drawn."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_embd": width, "n_layer": _LAYERS, "n_head": _HEADS, "n_inner": 4 * width}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=_VOCABULARY, n_positions=_CONTEXT, attn_implementation="eager", bos_token_id=0, eos_token_id=0,
            **sizes, **dropout,
        )
    )  # fmt: skip
    with torch.no_grad():
        for each in model.parameters():
            # The exporter stores equal biases and gains once, and they would be trained as one.
            if each.dim() == 1:
                each.add_(1e-3 * torch.randn_like(each))

    path = folder / f"gpt-{width}.onnx"
    export(model, path)
    return path


def _floats(model: Model) -> list[np.ndarray[Any, Any]]:
    return [values for values in map(numbers, constants(model.graph)) if values.dtype.kind == "f" and values.size > 1]


def _nonzero(model: Model) -> int:
    return sum(int(np.count_nonzero(values)) for values in _floats(model))


def _sparsity(model: Model, left: int) -> float:
    """Share of the matrices to zero so that as many numbers of the whole model are left."""
    names = {constant.name for constant in constants(model.graph)}
    held = sum(one.size for one in matrices(model, names))
    return 1 - (left - (sum(values.size for values in _floats(model)) - held)) / held


if __name__ == "__main__":
    print(json.dumps(large_sparse_and_small_dense(*map(int, sys.argv[1:3])), indent=1))
