"""Cut whole residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.errors import Declined, OptionError
from onnxprune.graph import constants, elements, stored_bytes
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.rewrite import substitute
from onnxprune.sites import GRAPH, Site, registered, with_registered
from onnxprune.solvers import scores

# A block is one unit: every number of a flattened weight belongs to unit 0.
_ONE = np.zeros((1, 1), np.int64)


@dataclass(frozen=True, kw_only=True)
class RemoveBlocks:
    """Cut residual blocks: what a block adds is left out, its input takes the place of its output.

    Attributes:
        keep: what stays: a share of the original blocks, in [0, 1], or a count.
        score: how blocks are ranked: `magnitude` (parameters' L2 norm) or `random`.
        roles: which blocks: attention, feed-forward, convolution; all by default.
        sites: cut exactly these blocks; then nothing is ranked.
    """

    name: ClassVar[str] = "remove-blocks"
    lossless: ClassVar[bool] = False
    structural: ClassVar[bool] = True
    keep: int | float = 1.0
    score: Literal["magnitude", "random"] = "magnitude"
    roles: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject shares outside [0, 1], negative counts and unknown roles."""
        if self.keep < 0 or (isinstance(self.keep, float) and self.keep > 1):
            raise OptionError(f"{self.name}: keep must be a share in [0, 1] or a count from 0, got {self.keep}.")
        unknown = set(self.roles) - {"attention", "feed-forward", "convolution"}
        if unknown:
            raise OptionError(
                f"{self.name}: no role named {min(unknown)!r}. Known: attention, convolution, feed-forward."
            )

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: these scores look at weights alone."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a block, last block first, so that none reads what another has taken away."""
        own = [site for site in sites if site.kind == "block"]
        unknown = set(self.sites) - {site.id for site in own}
        if unknown:
            known = ", ".join(site.id for site in own) or "none"
            raise OptionError(f"{self.name}: no site {min(unknown)!r}. Known: {known}.")
        skips = [Skip(site=site.id, why=site.pinned) for site in own if site.pinned]
        eligible = [site for site in own if not site.pinned and (not self.roles or site.operator in self.roles)]
        if not own:
            skips.append(Skip(site=GRAPH, why="no residual blocks were found"))
        gone = self._gone(model, eligible, context)
        blocks = {site.id: site.anchor for site in own}
        skips += [Skip(site=site.id, why="stays") for site in eligible if site not in gone]
        edits = tuple(
            Edit(
                id=f"{self.name}.{site.id}",
                pass_name=self.name,
                site=site.id,
                kind="remove-block",
                args={"output": site.block.output, "stream": site.block.stream, "blocks": blocks},
            )
            for site in reversed(gone)
            if site.block is not None
        )
        return Proposal(edits, tuple(skips))

    def _gone(self, model: Model, sites: Sequence[Site], context: Context) -> list[Site]:
        if self.sites:
            return [site for site in sites if site.id in self.sites]
        original = len({site.id for site in sites} | {name for name in registered(model) if name.startswith("block.")})
        kept = self.keep if isinstance(self.keep, int) else int(self.keep * original + 0.5)
        ranked = [self._score(model, site, context) for site in sites]
        order = sorted(range(len(sites)), key=lambda at: (ranked[at], at))
        return [sites[at] for at in sorted(order[: max(0, len(sites) - kept)])]

    def _score(self, model: Model, site: Site, context: Context) -> float:
        if self.score == "random":
            return float(scores.random(1_000_000, context.seed, site.id)[0])
        block = site.block
        if block is None:
            return float("inf")
        inner = set(block.inner)
        weights = {
            tensor.name: tensor
            for node in model.graph.nodes
            if node.outputs[0].name in inner
            for tensor in node.inputs
            if isinstance(tensor, gs.Constant) and tensor.values.dtype.kind == "f"
        }
        parts = [(tensor.values.reshape(1, -1), 0, _ONE) for tensor in weights.values()]
        return float(scores.magnitude(parts, 1)[0])

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with the readers of each block's output reading its residual input."""
        copy = model.copy()
        changes = []
        for edit in edits:
            before = _totals(copy.graph)
            _bypass(copy.graph, str(edit.args["output"]), str(edit.args["stream"]), edit.site)
            copy.graph.cleanup(remove_unused_graph_inputs=False)
            after = _totals(copy.graph)
            changes.append(
                Change(
                    site=edit.site,
                    what="block removed",
                    params_before=before[0],
                    params_after=after[0],
                    bytes_before=before[1],
                    bytes_after=after[1],
                )
            )
        known = {name: anchor for edit in edits for name, anchor in edit.args["blocks"].items()}
        return with_registered(copy, {name: {"anchor": a, "units": 1} for name, a in known.items()}), tuple(changes)


def _bypass(graph: gs.Graph, output: str, stream: str, site: str) -> None:
    tensors = graph.tensors()
    if output not in tensors or stream not in tensors:
        raise Declined(f"{site}: the model has no tensors {output!r} and {stream!r}")
    old, new = tensors[output], tensors[stream]
    if any(tensor is old for tensor in graph.outputs):
        # The name of a graph output must stay: the stream is handed over under it.
        old.inputs.clear()
        graph.nodes.append(gs.Node("Identity", name=output, inputs=[new], outputs=[old]))
    substitute(old, new)


def _totals(graph: gs.Graph) -> tuple[int, int]:
    held = list(constants(graph))
    return sum(map(elements, held)), sum(map(stored_bytes, held))
