"""The GPT fixture's perplexity, and more of the text that it was trained on."""

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import ByteLevelBPETokenizer, Tokenizer

from benchmarks import packages

FIXTURE = Path(__file__).parents[1] / "fixtures" / "gloss-gpt"
_BLOCKS, _CONTEXT = 12_000, 64
# As its own script splits them.
_TEST, _SEED = 5000, 0


def held_out_perplexity(path: Path) -> float:
    """Perplexity on the fixture's 256 held-out blocks."""
    score: float = runpy.run_path(str(FIXTURE.parent / "score.py"))["score"]("gloss-gpt", path)
    return score


def export(model: Any, path: Path) -> None:
    """Write a torch model of that kind as the fixture's own script does: tokens in, logits out, sizes dynamic."""
    runpy.run_path(str(FIXTURE / "make.py"))["export"](model, path)


def training_file() -> Path:
    """Return an `.npz` of blocks [12000, 64] of training text, made on first use; held-out glosses are not among it."""
    target = packages.cache_folder("calibration") / "gloss-gpt-recovery.npz"
    if not target.exists():
        sys.path.append(str(FIXTURE.parent))
        from text import split, synsets

        folder = packages.debian("wordnet-base") / "usr/share/wordnet"
        glosses = list(dict.fromkeys(synset.gloss for synset in synsets(folder, "noun", "verb", "adj", "adv")))
        _, training = split(len(glosses), [_TEST], _SEED)
        tokenizer: Tokenizer | ByteLevelBPETokenizer = Tokenizer.from_file(str(FIXTURE / "tokenizer.json"))
        end = int(tokenizer.token_to_id("<|end|>") or 0)
        tokens: list[int] = []
        for place in training:
            tokens += [*tokenizer.encode(glosses[place]).ids, end]
            if len(tokens) >= _BLOCKS * _CONTEXT:
                break
        blocks = np.array(tokens[: _BLOCKS * _CONTEXT], np.int64).reshape(_BLOCKS, _CONTEXT)
        with packages.written(target) as partial:
            arrays: dict[str, Any] = {"input_ids": blocks}
            np.savez(partial, **arrays)
    return target
