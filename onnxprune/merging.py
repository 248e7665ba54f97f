"""The search for layers that can be merged: candidates are built, run and held against the original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from onnxprune.cosines import Pair
from onnxprune.errors import Declined
from onnxprune.graph import constants
from onnxprune.isomorphism import Anatomy, Layer, anatomy, final_hidden, find_layers, layer_id, readers_through
from onnxprune.model import Model
from onnxprune.plan import Edit, Skip
from onnxprune.protocol import Context
from onnxprune.removal.bypass import Bypass
from onnxprune.sites import GRAPH, Site, with_registered

Array = np.ndarray[Any, Any]
Rule = Literal["last", "sum-of-differences"]
Unit = tuple[Site, ...]


def merged_weights(stack: Sequence[Array], rule: Rule) -> Array:
    """One weight of the merged layer, from that of each layer of the group, first to last.

    Source: Yang et al. 2024, LaCo, equation 1 (`sum-of-differences`: θ_l + Σ_k (θ_{l+k} - θ_l)). The authors' code
    updates θ_l inside the loop, so that the sum telescopes to the last layer's.
    """
    if rule == "last":
        return stack[-1].copy()
    first = stack[0].astype(np.float64)
    total = first + sum(one.astype(np.float64) - first for one in stack[1:])
    return np.asarray(total, stack[0].dtype)


def apply_merge(model: Model, edit: Edit) -> Model:
    """A copy with the weights of the first layer written and the layers after it led past.

    Raises:
        Declined: the model lacks a weight or tensor of the edit.
    """
    copy = model.copy()
    held = {tensor.name: tensor for tensor in constants(copy.graph)}
    for key, name in edit.args["weights"].items():
        tensor, values = held.get(name), edit.tensors[key]
        if tensor is None or tuple(tensor.shape) != values.shape or np.dtype(tensor.dtype) != values.dtype:
            raise Declined(f"{edit.site}: the model has no weight {name!r} of {values.dtype} {list(values.shape)}")
        tensor.values = values
    streams = Bypass(copy.graph)
    streams.past(str(edit.args["output"]), str(edit.args["stream"]), edit.site)
    streams.finish()
    return with_registered(copy, edit.args["known"])


def _text(unit: Unit) -> str:
    return "+".join(site.id for site in unit)


class Search:
    """Merges so far, and the layers as they leave them.

    Attributes:
        layers: of the model with all edits, in data order.
        edits: each depends on the one before, since its cosine is of all of them together.
    """

    def __init__(
        self, name: str, rule: Rule, model: Model, sites: Sequence[Site], context: Context, threshold: float | None
    ) -> None:
        if context.structure is None or context.cosines is None:
            raise Declined("the model was not run on samples")
        self._name, self._rule, self._threshold = name, rule, threshold
        self._structure, self._cosines = context.structure, context.cosines
        self._sites = {site.anchor: site for site in sites if site.kind == "block"}
        self._counts: Counter[str] = Counter()
        self._why: dict[str, str] = {}
        self.edits: list[Edit] = []
        self.current = model
        blocks = [site.block for site in self._sites.values() if site.block is not None]
        self.layers = find_layers(blocks, model.graph)
        self._known = {s.id: {"anchor": s.anchor, "units": 1, "role": s.operator} for s in self._sites.values()}
        self._known |= {
            layer_id([site.id for site in unit]): {"anchor": f"layer of {unit[-1].anchor}", "units": 1}
            for unit in map(self.unit, self.layers)
        }
        self._hidden = final_hidden(model.graph, self.layers[-1], self._structure.shapes) if self.layers else ""
        original = context.original or model
        # An earlier pass may have left no tensor of that name in the original.
        self._original = original if self._hidden in original.graph.tensors() else model
        self._target_hidden = self._hidden

    def unit(self, layer: Layer) -> Unit:
        """The sites of a layer's blocks."""
        return tuple(self._sites[block.output] for block in layer.blocks)

    def walk(self, group: int, interval: int) -> None:
        """From the last layers down: merge each group that keeps the cosine above the threshold, then go on below.

        Source: Yang et al. 2024, LaCo, algorithm 1, with the bounds of the authors' code.
        """
        at = len(self.layers) - group
        while at >= 0:
            # A window past the last layer is cut off there.
            size = min(group, len(self.layers) - at)
            if size > 1 and self._accepts(self.candidate(at, size)):
                at -= interval
                at = at if at < len(self.layers) else len(self.layers) - 1 - group
            else:
                at -= 1

    def to_target(self, target: int, group: int) -> None:
        """Merge where that keeps the highest cosine, until at most so many layers are left."""
        # The first layer makes of embeddings what all others read: only a threshold may merge it.
        first = 1 if self._threshold is None else 0
        while len(self.layers) > target:
            size = min(group, len(self.layers) - target + 1)
            found = [self.candidate(at, size) for at in range(first, len(self.layers) - size + 1)]
            merges = sorted((one for one in found if one is not None), key=lambda one: -float(one[0].args["cosine"]))
            if not merges or not self._accepts(merges[0]):
                for refused in merges[1:]:
                    self._accepts(refused)
                if first:
                    self._why[_text(self.unit(self.layers[0]))] = "only a threshold may merge the first layer"
                self._why[GRAPH] = f"{len(self.layers)} layers stay, not {target}: no further merge is allowed"
                return

    def skips(self) -> tuple[Skip, ...]:
        """Layers that are still whole, each with the reason why it was not merged with those after it."""
        merged = {edit.site for edit in self.edits}
        present = [_text(self.unit(layer)) for layer in self.layers]
        held = [Skip(site=name, why=self._why.get(name, "stays")) for name in present if name not in merged]
        return (*held, *(Skip(site=GRAPH, why=why) for name, why in self._why.items() if name == GRAPH))

    def _accepts(self, candidate: tuple[Edit, Model, str] | None) -> bool:
        if candidate is None:
            return False
        edit, model, hidden = candidate
        cosine = float(edit.args["cosine"])
        if self._threshold is not None and not cosine > self._threshold:
            others = ", ".join(edit.args["layers"][1:])
            self._why[edit.site] = (
                f"merged with {others}, the final hidden states would keep cosine {cosine:.4f}, not above "
                f"{self._threshold:g}"
            )
            return False
        self._hidden = hidden
        self._counts[edit.site] += 1
        self.edits.append(edit)
        self.current = model
        at = next(at for at, layer in enumerate(self.layers) if _text(self.unit(layer)) == edit.site)
        behind = self.layers[at + len(edit.args["layers"]) :]
        # What read the last layer of the group reads the merged one.
        behind = tuple(replace(one, start=self.layers[at].end) if one is behind[0] else one for one in behind)
        self.layers = (*self.layers[: at + 1], *behind)
        return True

    def candidate(self, at: int, size: int) -> tuple[Edit, Model, str] | None:
        """The merge of `size` layers from `at` on, the model with it and its final hidden state; None if impossible."""
        window = self.layers[at : at + size]
        units = [self.unit(layer) for layer in window]
        parts = [anatomy(self.current.graph, layer) for layer in window]
        refused = self._refusal(window, units, parts)
        if refused:
            self._why[_text(units[0])] = refused
            return None
        held = {tensor.name: tensor for tensor in constants(self.current.graph)}
        places = [place for place, one in enumerate(parts[0].held) if one.matrix]
        site = _text(units[0])
        repeat = f".{self._counts[site]}" if self._counts[site] else ""
        edit = Edit(
            id=f"{self._name}.{site}{repeat}",
            pass_name=self._name,
            site=site,
            kind="merge-layers",
            args={
                "layers": [_text(unit) for unit in units],
                "weights": {str(place): parts[0].held[place].name for place in places},
                "output": window[-1].end,
                "stream": window[0].end,
                "threshold": self._threshold,
                "known": self._known,
            },
            depends_on=tuple(edit.id for edit in self.edits[-1:]),
            tensors={
                str(place): merged_weights([held[one.held[place].name].values for one in parts], self._rule)
                for place in places
            },
        )
        # What apply needs besides the cosine is there; the cosine is measured on what it gives.
        model = apply_merge(self.current, edit)
        hidden = self._hidden if self._hidden in model.graph.tensors() else window[0].end
        pair = Pair(hidden, self._target_hidden, None)
        cosine = self._cosines(model, self._original, [pair])[0]
        if not np.isfinite(cosine):
            self._why[site] = "merged with those after it, the final hidden states would not be finite"
            return None
        return replace(edit, args={**edit.args, "cosine": cosine}), model, hidden

    def _refusal(self, window: Sequence[Layer], units: Sequence[Unit], parts: Sequence[Anatomy]) -> str:
        pins = [site.pinned for unit in units for site in unit if site.pinned]
        if pins:
            return pins[0]
        for (first, one), (second, other) in pairwise(zip(window, parts, strict=True)):
            names = f"{_text(self.unit(first))} and {_text(self.unit(second))}"
            if first.end != second.start:
                return f"{names} do not follow each other"
            if one.key != other.key:
                return f"{names} are not alike"
        return self._shared(parts[0]) or self._read_outside(window, parts)

    def _shared(self, base: Anatomy) -> str:
        held = {tensor.name: tensor for tensor in constants(self.current.graph)}
        for one in base.held:
            if not one.matrix:
                continue
            if one.name in self.current.overridable:
                return f"weight {one.name!r} may be replaced by the caller"
            for reader in readers_through(held[one.name]):
                if reader.outputs[0].name not in base.made:
                    return f"weight {one.name!r} is shared with {reader.op} {reader.outputs[0].name!r}"
        return ""

    def _read_outside(self, window: Sequence[Layer], parts: Sequence[Anatomy]) -> str:
        """A tensor that goes with the layers although something else needs it; empty where there is none."""
        gone = frozenset().union(*(one.made for one in parts[1:]))
        given_out = {tensor.name for tensor in self.current.graph.outputs}
        for node in self.current.graph.nodes:
            if node.outputs[0].name not in gone:
                continue
            for tensor in node.outputs:
                if tensor.name == window[-1].end:
                    continue
                if tensor.name in given_out or any(r.outputs[0].name not in gone for r in tensor.outputs):
                    return f"{tensor.name!r} is also read outside of the layers"
        return ""
