"""Zeros and integers together: perplexity by solver, perplexity against bytes, and a sentence encoder in few bytes.

    python -m benchmarks.sparsity [--only solvers|curve|encoder] [--folder benchmarks]

Writes `sparsity.json`, and `sparsity.md` from it. The GPT fixture: all 2358 held-out blocks of 64 tokens, products in
float so that weights alone differ; ratios of perplexities with intervals over blocks, resampled together. Files are
packed by `pack-weights`. Nothing here is timed but what the encoder's own report says of its file.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import onnxprune
from benchmarks import models, packages, script, sparsity_page, tasks
from benchmarks.sessions import open_session
from fixtures.text import split, synsets
from onnxprune import spec
from onnxprune.latency import Clock
from onnxprune.model import Model, save
from onnxprune.passes import known
from onnxprune.plan import Edit
from onnxprune.sites import find_sites
from onnxprune.steps import take
from onnxprune.subject import Subject, context_for, load_subject
from onnxprune.targets.target import parse_target

_GPT = Path(__file__).parents[1] / "fixtures" / "gloss-gpt"
_ENCODER = "minilm-torchscript-eager"
# As fixtures/gloss-gpt/make.py cuts the held-out text.
_TEST, _SEED, _CONTEXT, _BATCH = 5000, 0, 64, 32
_RESAMPLED = 2000
_HALF = "sparsity=0.5"
_SHARED = f"{_HALF},allocation=loss"

Row = dict[str, Any]
Array = np.ndarray[Any, Any]

# Of each pair the second must have the lower perplexity, or as low within the tolerance.
_PAIRS = (
    (8, f"{_HALF},solver=prune-then-round", _HALF, 1.002),
    (4, f"bits=4,{_HALF},solver=prune-then-round", f"bits=4,{_HALF}", 1.0),
    (3, f"bits=3,{_HALF},solver=prune-then-round", f"bits=3,{_HALF}", 1.0),
    (4, "bits=4,solver=round", "bits=4", 1.0),
    (3, "bits=3,solver=round", "bits=3", 1.0),
)
_CURVE = {
    "int8": ("sparse-int8:linears=stored",),
    **{
        f"int8, {share:.1%} zeros": (f"sparse-int8:linears=stored,sparsity={share},allocation=loss",)
        for share in (0.25, 0.5, 0.625, 0.75, 0.875)
    },
    "int8, 2:4": ("sparse-int8:linears=stored,sparsity=2:4",),
    "4 bits": ("sparse-int8:linears=stored,bits=4",),
    "4 bits, a scale every 32 inputs": ("sparse-int8:linears=weight-only,bits=4,block=32",),
    **{
        f"4 bits, {share:.0%} zeros": (f"sparse-int8:linears=stored,bits=4,sparsity={share},allocation=loss",)
        for share in (0.25, 0.5, 0.75)
    },
    "3 bits": ("sparse-int8:linears=stored,bits=3",),
    "256 centroids": ("cluster:centroids=256",),
    "16 centroids": ("cluster:centroids=16",),
    "4 bits, tables too": ("sparse-int8:linears=stored,bits=4,embeddings=4",),
    "4 bits, 50% zeros, tables of 4 bits": (
        "sparse-int8:linears=stored,bits=4,sparsity=0.5,allocation=loss,embeddings=4",
    ),
}

# MiniLM: 30522 and 512 rows of 384; 6 layers of 4 products of 384 x 384 and 2 of 384 x 1536.
_TABLES, _ROWS = 30522 * 384 + 512 * 384, 30522 + 512
_PRODUCTS = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
# Of each layer a scale and a bias an output, and two norms of 384; norm and third table of the embeddings.
_OUTPUTS = 6 * (4 * 384 + 1536 + 384)
_FLOATS = _OUTPUTS + 6 * 4 * 384 + 2 * 384 + 2 * 384
# With 8 of 12 heads of 32, and 1024 of 1536 neurons.
_CUT_PRODUCTS = 6 * (4 * 384 * 256 + 2 * 384 * 1024)
_CUT_OUTPUTS = 6 * (3 * 256 + 384 + 1024 + 384)
_CUT_FLOATS = _FLOATS - _OUTPUTS + _CUT_OUTPUTS
_CUT = ("remove-heads:keep=8", "remove-neurons:keep=1024")
# Half a byte a number that is not zero at 50 %, an eighth for where it stands; half-precision scales of rows.
_ENCODERS: dict[str, tuple[tuple[str, ...], float, float]] = {
    # 0.625 · 10 616 832 + 11 917 056 + 2 · 31 034 + 4 · (20 736 + 31 488) = 18 823 540
    "half zeros, int8": (
        (f"sparse-int8:{_SHARED}",),
        0.625 * _PRODUCTS + _TABLES + 2 * _ROWS + 4 * (_OUTPUTS + _FLOATS),
        0.215,
    ),
    # 6 635 520 + 5 958 528 + 62 068 + 208 896 = 12 865 012
    "the same, tables of 4 bits": (
        (f"sparse-int8:{_SHARED},embeddings=4",),
        0.625 * _PRODUCTS + _TABLES / 2 + 2 * _ROWS + 4 * (_OUTPUTS + _FLOATS),
        0.155,
    ),
    # 0.625 · 7 077 888 + 5 958 528 + 62 068 + 4 · (15 360 + 26 112) = 10 610 164
    "the same, a third of heads and neurons cut": (
        (*_CUT, f"sparse-int8:{_SHARED},embeddings=4"),
        0.625 * _CUT_PRODUCTS + _TABLES / 2 + 2 * _ROWS + 4 * (_CUT_OUTPUTS + _CUT_FLOATS),
        0.125,
    ),
    "dense int8": (("sparse-int8",), _PRODUCTS + _TABLES + 2 * _ROWS + 4 * (_OUTPUTS + _FLOATS), float("inf")),
}


def held_out() -> Array:
    """[2358, 64] tokens of every gloss that the fixture was not trained on.

    Raises:
        RuntimeError: they are not the fixture's own.
    """
    folder = packages.debian("wordnet-base") / "usr/share/wordnet"
    glosses = list(dict.fromkeys(one.gloss for one in synsets(folder, "noun", "verb", "adj", "adv")))
    places, _ = split(len(glosses), [_TEST], _SEED)
    tokenizer = Tokenizer.from_file(str(_GPT / "tokenizer.json"))
    end = tokenizer.token_to_id("<|end|>")
    encoded = tokenizer.encode_batch([glosses[place] for place in places])
    tokens = [token for one in encoded for token in (*one.ids, end)]
    count = len(tokens) // _CONTEXT
    blocks = np.array(tokens[: count * _CONTEXT], np.int64).reshape(count, _CONTEXT)
    with np.load(_GPT / "samples.npz") as stored:
        own = stored["input_ids"]
    if not np.array_equal(blocks[: len(own)], own):
        raise RuntimeError("wordnet-base's glosses are not those of the fixture")
    return blocks


def losses(path: Path, blocks: Array) -> Array:
    """[blocks] mean negative log-likelihood of each block's tokens but the first."""
    session = open_session(path)
    found = []
    for start in range(0, len(blocks), _BATCH):
        ids = blocks[start : start + _BATCH]
        logits = session.run(["logits"], {"input_ids": ids})[0][:, :-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        picked = np.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
        found.append((np.log(np.exp(logits).sum(axis=-1)) - picked).mean(axis=-1))
    return np.concatenate(found)


def perplexity_ratio(own: Array, other: Array) -> dict[str, float]:
    """Perplexity of `own` over that of `other`, both [blocks] of losses, with its 95 % interval over blocks."""
    difference = own - other
    drawn = np.random.default_rng(0).integers(0, len(own), (_RESAMPLED, len(own)))
    low, high = np.percentile(np.exp(difference[drawn].mean(axis=1)), [2.5, 97.5])
    return {"ratio": float(np.exp(difference.mean())), "low": float(low), "high": float(high)}


class Gpt:
    """The fixture with passes carried out on it, each result scored once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        data = str(_GPT / "calibration.npz")
        self._subject: Subject = load_subject(
            _GPT / "model.onnx", data, {}, 0, "next-token", None, allow_synthetic=False
        )
        self._clock = Clock(parse_target("cpu:1"))
        self._blocks = held_out()
        self._scored: dict[tuple[str, ...], tuple[Array, Row]] = {}

    def scored(self, *passes: str) -> tuple[Array, Row]:
        """Losses of a result's blocks, and what the file is like."""
        if passes not in self._scored:
            print(" ".join(passes) or "fp32", file=sys.stderr, flush=True)
            path = self._folder / "candidate.onnx"
            edits = self._written(passes, path)
            found = losses(path, self._blocks)
            products = [edit for edit in edits if edit.site.startswith("linear") and "weight" in edit.tensors]
            numbers = sum(edit.tensors["weight"].size for edit in products)
            zeros = sum(int((edit.tensors["weight"] == 0).sum()) for edit in products)
            row = {
                "passes": list(passes),
                "perplexity": float(np.exp(found.mean())),
                "bytes": path.stat().st_size,
                "zeros": zeros / numbers if numbers else 0.0,
            }
            self._scored[passes] = found, row
        return self._scored[passes]

    def _written(self, passes: Sequence[str], path: Path) -> list[Edit]:
        model: Model = self._subject.model
        edits: list[Edit] = []
        for text in ("simplify", *passes, "pack-weights") if passes else ():
            one = spec.parse(text, known())
            context = context_for(one, model, model, self._subject, self._clock, seed=0)
            step = take(one, model, find_sites(model, context.structure), context, self._subject.evidence, None)
            model = step.model
            edits += step.edits
        save(model, path)
        return edits


def solvers(gpt: Gpt) -> list[Row]:
    """Solving together beside pruning and then rounding, and beside rounding alone."""
    rows = []
    for bits, without, together, allowed in _PAIRS:
        (other, first), (own, second) = (
            gpt.scored(f"sparse-int8:linears=stored,{text}") for text in (without, together)
        )
        ratio = perplexity_ratio(own, other)
        rows.append({
            "bits": bits, "without": without, "with": together,
            "perplexity_without": first["perplexity"], "perplexity_with": second["perplexity"],
            **ratio, "allowed": allowed, "holds": ratio["ratio"] <= allowed,
        })  # fmt: skip
    return rows


def curve(gpt: Gpt, forms: Sequence[str]) -> list[Row]:
    """Perplexity against bytes of the packed file."""
    dense, whole = gpt.scored()
    rows = [{"form": "fp32", **whole, "share": 1.0, "ratio": 1.0, "low": 1.0, "high": 1.0}]
    for form in forms:
        found, row = gpt.scored(*_CURVE[form])
        rows.append({"form": form, **row, "share": row["bytes"] / whole["bytes"], **perplexity_ratio(found, dense)})
    return rows


def encoder(folder: Path, forms: Sequence[str]) -> list[Row]:
    """MiniLM in few bytes: the file beside what its numbers alone would take, and its scores."""
    path, data, score = models.get(_ENCODER), tasks.calibration_file(_ENCODER), tasks.of(_ENCODER).scores
    if score is None or data is None:
        raise FileNotFoundError(_ENCODER)
    reference, whole = score(path), path.stat().st_size
    rows: list[Row] = [{"form": "fp32", "bytes": whole, "share": 1.0, "scores": tasks.report(reference, reference)}]
    for form in forms:
        passes, payload, most = _ENCODERS[form]
        target = folder / "encoder.onnx"
        print(" ".join(passes), file=sys.stderr, flush=True)
        done = onnxprune.optimize(
            path, output=target, data=str(data), passes=(*passes, "pack-weights"), shape=("input_ids=1x128",)
        )
        speedup = done.timed_after.speedup
        size = target.stat().st_size
        rows.append({
            "form": form, "passes": list(passes), "bytes": size, "share": size / whole,
            "allowed": most if np.isfinite(most) else None, "payload": payload, "over_payload": size / payload - 1,
            "speedup": {"ratio": speedup.ratio, "low": speedup.low, "high": speedup.high},
            "explained": done.fidelity.score,
            "scores": tasks.report(score(target), reference),
        })  # fmt: skip
    return rows


def _asked(forms: Sequence[str] | None, known_forms: Iterable[str]) -> list[str]:
    return [form for form in known_forms if forms is None or form in forms]


def _merged(old: Sequence[Row], new: Sequence[Row], known_forms: Iterable[str]) -> list[Row]:
    """Rows of an earlier run with those of this one in their places."""
    rows = {row["form"]: row for row in (*old, *new)}
    return [rows[form] for form in ("fp32", *known_forms) if form in rows]


def _measured(only: str | None, forms: Sequence[str] | None, before: Row) -> Row:
    """What was asked for, rows of an earlier run among it."""
    result: Row = {}
    with tempfile.TemporaryDirectory() as folder:
        if only != "encoder":
            gpt = Gpt(Path(folder))
            result["blocks"] = len(held_out())
            if only != "curve":
                result["solvers"] = solvers(gpt)
            if only != "solvers":
                result["curve"] = _merged(before.get("curve", []), curve(gpt, _asked(forms, _CURVE)), _CURVE)
        if only not in {"solvers", "curve"}:
            rows = encoder(Path(folder), _asked(forms, _ENCODERS))
            result["encoder"] = _merged(before.get("encoder", []), rows, _ENCODERS)
    return result


def main(arguments: list[str]) -> int:
    """Measure and write both files."""
    parser = script.options(__doc__)
    parser.add_argument("--only", choices=("solvers", "curve", "encoder"))
    parser.add_argument("--form", choices=(*_CURVE, *_ENCODERS), action="append", help="these rows; others stay")
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="take over rows of other runs' JSON files")
    asked = script.read(parser, arguments)
    result = script.held(asked.folder, "sparsity") if asked.only or asked.join else {}
    for other in asked.join:
        joined = json.loads(other.read_text())
        for part, known_forms in (("curve", _CURVE), ("encoder", _ENCODERS)):
            if part in joined:
                joined[part] = _merged(result.get(part, []), joined[part], known_forms)
        result |= joined
    if not asked.join:
        result |= {"machine": script.machine()} | _measured(asked.only, asked.form, result)
    script.write(asked.folder, "sparsity", result, sparsity_page.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
