"""Drop the n-grams of language models and of text classifiers that matter least."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from onnxprune.calibration import Needs
from onnxprune.errors import DataError, Declined, OptionError
from onnxprune.graph import storage
from onnxprune.model import Model
from onnxprune.ngrams.backoff import Table
from onnxprune.ngrams.clustering import clustered, word_classes
from onnxprune.ngrams.editing import CLUSTERED, cluster, clustered_args, prune, pruned_args, table_storage
from onnxprune.ngrams.proving import Encoded
from onnxprune.ngrams.pruning import Counts, Joint, Selection, count_scores, stolcke, weighted_difference
from onnxprune.ngrams.reading import Site as Tables
from onnxprune.ngrams.reading import find_models
from onnxprune.ngrams.vectorizers import Vectorizer, cut_columns, find_vectorizers
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import Range, check_ranges, share_or_count
from onnxprune.sites import Site

Array = np.ndarray[Any, Any]

# Where a pruned model remembers how many numbers it had, and what it was pruned by.
_REGISTRY = "onnxprune.ngrams"
_MOST_CLASSES = 4096


@dataclass(frozen=True, kw_only=True)
class Ngram:
    """Drop n-grams of back-off tables, whose alphas are computed anew, and of vectorizers with the weights behind them.

    Attributes:
        keep: what stays of a model's probabilities and alphas, or of a vectorizer's columns: a share of the original
            ones, in (0, 1], or a count.
        threshold: drop what scores below; `keep` says it by itself where this is none.
        score: of back-off models: `stolcke`, the rise of perplexity; `weighted-difference`, how often times how much
            likelier than by backing off; `count`, how often sample inputs hold it. Columns of vectorizers are ranked by
            `count`, else by what they add to the linears behind them.
        classes: predict a word's class first, and then the word in it: so many classes by the exchange algorithm; 0:
            none. It changes no probability, but what can be dropped.

    Source: Goodman and Gao 2000, Language model size reduction by pruning and clustering.
    """

    name: ClassVar[str] = "ngram"
    lossless: ClassVar[bool] = False
    keep: Annotated[int | float, share_or_count("(0, 1]", 1)] = 1.0
    threshold: Annotated[float | None, Range("a finite number", math.isfinite)] = None
    score: Literal["count", "stolcke", "weighted-difference"] = "stolcke"
    classes: Annotated[int, Range(f"0 … {_MOST_CLASSES}", range(_MOST_CLASSES + 1).__contains__)] = 0

    def __post_init__(self) -> None:
        """Reject targets and scores that nothing could meet."""
        check_ranges(self, self.name)
        if self.threshold is not None and self._by_target:
            raise OptionError(f"{self.name}: keep and threshold exclude each other. Give one of them.")
        if self.classes and self.score == "count":
            raise OptionError(f"{self.name}: samples do not count classes of words. Give another score.")

    @property
    def _by_target(self) -> bool:
        return isinstance(self.keep, int) or self.keep < 1

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """How often n-grams occur, and what comes out of vectorizers."""
        del sites
        found, _ = find_models(model.graph)
        keys = {encoded.node.inputs[0].name for site in found for one in site.found for encoded in one.grams[1:]}
        vectorizers, _ = find_vectorizers(model.graph)
        return Needs(
            tokens=frozenset(keys) if self.score != "stolcke" and not self.classes else frozenset(),
            columns=frozenset(one.name for one in vectorizers),
        )

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a model or vectorizer."""
        del sites
        models, why = find_models(model.graph)
        vectorizers, left = find_vectorizers(model.graph)
        skips = [Skip(site=name, why=reason) for name, reason in (why | left).items()]
        edits = []
        found: list[Tables | Vectorizer] = [*models, *vectorizers]
        for at, one in enumerate(found):
            site = f"ngrams.{at}"
            try:
                edits.append(self._edit(model, one, site, context))
            except Declined as reason:
                skips.append(Skip(site=site, why=str(reason)))
        return Proposal(tuple(edits), tuple(skips))

    def _edit(self, model: Model, one: Tables | Vectorizer, site: str, context: Context) -> Edit:
        if not self._by_target and self.threshold is None and not self.classes:
            raise Declined("neither keep nor threshold asks for fewer n-grams")
        known = _registered(model).get(_anchor(one), {})
        if self.threshold is not None and "by" in known:
            raise Declined(f"it was pruned before, {known['by']}; start from the original to prune more")
        if isinstance(one, Vectorizer):
            kind, args, tensors = self._columns(one, known, context)
        else:
            kind, args, tensors = self._tables(one, known, context)
        return Edit(
            id=f"{self.name}.{site}", pass_name=self.name, site=site, kind=kind, tensors=tensors,
            args={**args, "anchor": _anchor(one), "by": self._by(), "score": self.score},
        )  # fmt: skip

    def _by(self) -> str:
        return f"by threshold {self.threshold}" if self.threshold is not None else f"to {self.keep}"

    def _tables(
        self, one: Tables, known: dict[str, Any], context: Context
    ) -> tuple[str, dict[str, Any], dict[str, Array]]:
        joint, classes = one.joint, None
        original = int(known.get("params", joint.parameters))
        if self.classes and len(one.found) == 1:
            classes = word_classes(joint, self.classes)
            smaller = clustered(joint, classes)
        else:
            smaller = joint
        target = self._target(original)
        if self._by_target and smaller.parameters <= target and classes is None:
            raise Declined(f"it has {joint.parameters} numbers, no more than {target}")
        if self._by_target or self.threshold is not None:
            selection = Selection(smaller, self._scores(smaller, one, context))
            if self.threshold is not None:
                smaller = selection.at_threshold(self.threshold)
            else:
                smaller = selection.to_target(target)
        if classes is None and smaller.parameters == joint.parameters:
            raise Declined("nothing in it scores so low, or longer n-grams need what does")
        counts: dict[str, Any] = {"params": original, "before": joint.parameters, "after": smaller.parameters}
        if classes is None:
            args, tensors = pruned_args(one, smaller)
            return "prune-ngrams", {**counts, **args}, tensors
        args, tensors = clustered_args(one, smaller, classes)
        return "cluster-words", {**counts, "classes": self.classes, **args}, tensors

    def _target(self, original: int) -> int:
        return self.keep if isinstance(self.keep, int) else int(self.keep * original)

    def _scores(self, joint: Joint, one: Tables, context: Context) -> list[list[Array]]:
        if self.score == "stolcke":
            return stolcke(joint)
        counts = None if self.classes else _counts(one, context)
        if self.score == "weighted-difference":
            return weighted_difference(joint, counts)
        if counts is None:
            raise DataError(f"{self.name}: score=count needs sample inputs. Give --data, or another score.")
        return count_scores(joint, counts)

    def _columns(
        self, one: Vectorizer, known: dict[str, Any], context: Context
    ) -> tuple[str, dict[str, Any], dict[str, Array]]:
        original = int(known.get("params", one.columns))
        seen = context.statistics.columns.get(one.name) if context.statistics is not None else None
        if seen is None and self.score == "count":
            raise DataError(f"{self.name}: score=count needs sample inputs. Give --data, or another score.")
        if self.score == "count" and seen is not None:
            weights = np.ones(one.columns)
            held = np.asarray(one.node.attrs.get("weights") or np.ones(len(one.grams)), np.float64)
            weights[one.grams] = np.where(held == 0, 1, np.abs(held))
            scores = seen.mean_abs * seen.rows / weights
        else:
            scores = one.size * (1.0 if seen is None else seen.norm)
        if self.threshold is not None:
            kept = scores >= self.threshold
        else:
            kept = np.zeros(one.columns, bool)
            kept[np.argsort(-scores, kind="stable")[: max(1, self._target(original))]] = True
        kept[np.argmax(scores)] = True
        if not (~kept).any():
            raise Declined(f"it has {one.columns} columns, and all of them stay")
        args = {"params": original, "before": one.columns, "after": int(kept.sum())}
        return "drop-columns", {**args, "vectorizer": one.name}, {"kept": np.packbits(kept)}

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model less what the edits drop.

        Raises:
            Declined: an edit does not fit the model.
        """
        changes = []
        for edit in edits:
            before = _stored(model)
            if edit.kind == "prune-ngrams":
                model = prune(model, edit.args, edit.tensors, edit.site)
            elif edit.kind == "cluster-words":
                model = cluster(model, edit.args, edit.tensors, edit.site)
            else:
                model = _dropped(model, edit)
            after = _stored(model)
            known = _registered(model)
            known[str(edit.args["anchor"])] = {"params": int(edit.args["params"]), "by": str(edit.args["by"])}
            model = model.with_metadata(**{_REGISTRY: json.dumps(known)})
            changes.append(
                Change(
                    site=edit.site, what=_what(edit), params_before=before[0], params_after=after[0],
                    bytes_before=before[1], bytes_after=after[1],
                )
            )  # fmt: skip
        return model, tuple(changes)


def _dropped(model: Model, edit: Edit) -> Model:
    result = model.copy()
    found = {one.name: one for one in find_vectorizers(result.graph)[0]}
    one = found.get(str(edit.args["vectorizer"]))
    bits = edit.tensors["kept"]
    if one is None or one.columns != edit.args["before"] or len(bits) != (one.columns + 7) // 8:
        raise Declined(f"{edit.site}: the model has no vectorizer {edit.args['vectorizer']!r} of as many columns")
    kept = np.unpackbits(bits, count=one.columns).astype(bool)
    if not kept.any():
        raise Declined(f"{edit.site}: a column at least must stay")
    cut_columns(result.graph, one, kept)
    return result


def _what(edit: Edit) -> str:
    before, after = edit.args["before"], edit.args["after"]
    if edit.kind == "drop-columns":
        return f"{before} columns to {after} by {edit.args['score']}, with the weights that read them"
    behind = f" behind {edit.args['classes']} classes of words" if edit.kind == "cluster-words" else ""
    return f"{before} probabilities and alphas to {after} by {edit.args['score']}{behind}"


def _stored(model: Model) -> tuple[int, int]:
    params, size = table_storage(model.graph)
    others = storage(model.graph)
    return params + others[0], size + others[1]


def _anchor(one: Tables | Vectorizer) -> str:
    # What puts classes before words extends the name of the output.
    return one.name if isinstance(one, Vectorizer) else str(one.found[-1].output.name).partition(CLUSTERED)[0]


def _registered(model: Model) -> dict[str, dict[str, Any]]:
    """What earlier runs wrote down, by the name of the output; entries that are not ours are none."""
    try:
        held = json.loads(model.metadata.get(_REGISTRY, "{}"))
    except ValueError:
        return {}
    entries = held.items() if isinstance(held, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and isinstance(entry.get("params"), int)}


def _counts(site: Tables, context: Context) -> Counts | None:
    """How often sample inputs hold each n-gram of a table; None without sample inputs."""
    statistics = context.statistics
    if statistics is None or len(site.found) > 1:
        return None
    encoders: dict[tuple[str, ...], Encoded] = {one.columns: one for one in site.found[0].grams}

    def counts(table: Table) -> Array:
        encoded = encoders[table.columns]
        name = encoded.node.inputs[0].name
        if name not in statistics.tokens:
            raise Declined(f"samples do not tell how often n-grams occur: {statistics.missing.get(name, 'unknown')}")
        keys, times = statistics.tokens[name]
        own = encoded.keys()
        at = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
        found: Array = np.where(keys[at] == own, times[at], 0)
        return found

    return counts
