"""Merge neighbouring layers that are alike into one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from onnxprune.calibration import Needs
from onnxprune.errors import DataError, Declined
from onnxprune.graph import storage
from onnxprune.isomorphism import layer_id
from onnxprune.merging import Rule, Search, apply_merge
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import at_least, check_ranges, share_or_count, within
from onnxprune.sites import GRAPH, Site, registered

# Where a merged model remembers the threshold that it was searched with.
_SEARCHED = "onnxprune.merged"


@dataclass(frozen=True, kw_only=True)
class MergeBlocks:
    """Merge groups of neighbouring layers that are alike, as long as the final hidden states keep their direction.

    Attributes:
        keep: how many layers stay: a share of the original ones, in (0, 1], or a count; the merges that keep the
            highest cosine come first. With 1.0, the threshold alone decides.
        threshold: least mean cosine of the final hidden states, original to merged; none with a `keep` target only,
            and then the first layer is never merged.
        group: layers that become one.
        interval: layers that the search by threshold goes down after each merge.
        rule: what becomes of the weights: `last` (the last layer's, with the first one's norms) or
            `sum-of-differences` (the first one's plus all differences to it).

    Source: Yang et al. 2024, LaCo, section 2. `last` is what the authors' code does, `sum-of-differences` what the
    paper prints; they agree for groups of two.
    """

    name: ClassVar[str] = "merge-blocks"
    lossless: ClassVar[bool] = False
    structural: ClassVar[bool] = True
    keep: Annotated[int | float, share_or_count("(0, 1]", 1)] = 1.0
    threshold: Annotated[float | None, within("[-1, 1]", "a cosine")] = None
    group: Annotated[int, at_least(2, "layers")] = 2
    interval: Annotated[int, at_least(1, "layer")] = 1
    rule: Rule = "last"

    def __post_init__(self) -> None:
        """Reject targets, thresholds, sizes and rules that no search could meet."""
        check_ranges(self, self.name)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing up front: candidates are run when they are proposed."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a merge, each on what the one before leaves."""
        if not self._by_target and self.threshold is None:
            return Proposal((), (Skip(site=GRAPH, why="neither keep nor threshold asks for a merge"),))
        if context.cosines is None:
            raise DataError(
                f"{self.name}: its search needs sample inputs. Give --data, or --allow-synthetic to calibrate on "
                "made-up ones."
            )
        if context.structure is None:
            raise Declined("the model's shapes were not observed")
        searched = (context.original or model).metadata.get(_SEARCHED)
        if searched is not None and not self._by_target:
            why = f"its layers were merged before, by threshold {searched}; start from the original to merge more"
            return Proposal((), (Skip(site=GRAPH, why=why),))
        search = Search(self.name, self.rule, model, sites, context, self.threshold)
        if len(search.layers) < 2:
            return Proposal((), (Skip(site=GRAPH, why="fewer than two whole layers were found"),))
        if self._by_target:
            search.to_target(self._target(model, search), self.group)
        else:
            search.walk(self.group, self.interval)
        return Proposal(tuple(search.edits), search.skips())

    @property
    def _by_target(self) -> bool:
        return isinstance(self.keep, int) or self.keep < 1

    def _target(self, model: Model, search: Search) -> int:
        if isinstance(self.keep, int):
            return self.keep
        original = {name for name in registered(model) if name.startswith("layer.")}
        original |= {layer_id([site.id for site in search.unit(layer)]) for layer in search.layers}
        return max(1, int(self.keep * len(original) + 0.5))

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with the weights of each merged layer written and the layers behind it led past."""
        changes = []
        for edit in edits:
            before = storage(model.graph)
            model = apply_merge(model, edit)
            after = storage(model.graph)
            count, cosine = len(edit.args["layers"]), float(edit.args["cosine"])
            changes.append(
                Change(
                    site=edit.site,
                    what=f"{count} layers merged into one (final hidden states keep cosine {cosine:.4f})",
                    params_before=before[0],
                    params_after=after[0],
                    bytes_before=before[1],
                    bytes_after=after[1],
                )
            )
        thresholds = [edit.args["threshold"] for edit in edits if edit.args["threshold"] is not None]
        if thresholds:
            model = model.with_metadata(**{_SEARCHED: json.dumps(thresholds[-1])})
        return model, tuple(changes)
