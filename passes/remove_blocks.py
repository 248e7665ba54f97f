"""Cut whole residual blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.errors import Declined, OptionError
from onnxprune.graph import elements, numbers, stored_bytes
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
        """Reject shares outside [0, 1], negative counts, unknown scores and roles."""
        if not (self.keep >= 0 if isinstance(self.keep, int) else 0 <= self.keep <= 1):
            raise OptionError(f"{self.name}: keep must be a share in [0, 1] or a count from 0, got {self.keep}.")
        if self.score not in {"magnitude", "random"}:
            raise OptionError(f"{self.name}: score must be magnitude or random, got {self.score!r}.")
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
        """One edit a block, in data order."""
        own = [site for site in sites if site.kind == "block"]
        unknown = set(self.sites) - {site.id for site in own}
        if unknown:
            known = ", ".join(site.id for site in own) or "none"
            raise OptionError(f"{self.name}: no site {min(unknown)!r}. Known: {known}.")
        skips = [Skip(site=site.id, why=site.pinned) for site in own if site.pinned]
        eligible = [site for site in own if not site.pinned and (not self.roles or site.operator in self.roles)]
        skips += [
            Skip(site=site.id, why=f"its role is {site.operator}, which option roles leaves out")
            for site in own
            if not site.pinned and site not in eligible
        ]
        if not own:
            skips.append(Skip(site=GRAPH, why="no residual blocks were found"))
        gone = self._gone(model, own, eligible, context)
        blocks = {site.id: {"anchor": site.anchor, "role": site.operator} for site in own}
        skips += [Skip(site=site.id, why="stays") for site in eligible if site not in gone]
        edits = tuple(
            Edit(
                id=f"{self.name}.{site.id}",
                pass_name=self.name,
                site=site.id,
                kind="remove-block",
                args={"output": site.block.output, "stream": site.block.stream, "blocks": blocks},
            )
            for site in gone
            if site.block is not None
        )
        return Proposal(edits, tuple(skips))

    def _gone(self, model: Model, own: Sequence[Site], eligible: Sequence[Site], context: Context) -> list[Site]:
        if self.sites:
            return [site for site in eligible if site.id in self.sites]
        # Blocks that an earlier run removed count among the original ones, where they had such a role.
        present = {site.id for site in own}
        removed = [
            name
            for name, entry in registered(model).items()
            if name.startswith("block.") and name not in present and (not self.roles or entry.get("role") in self.roles)
        ]
        original = len(eligible) + len(removed)
        kept = self.keep if isinstance(self.keep, int) else int(self.keep * original + 0.5)
        ranked = self._scores(model, eligible, context)
        order = sorted(range(len(eligible)), key=lambda at: (ranked[at], at))
        return [eligible[at] for at in sorted(order[: max(0, len(eligible) - kept)])]

    def _scores(self, model: Model, sites: Sequence[Site], context: Context) -> list[float]:
        if self.score == "random":
            return [float(scores.random(1_000_000, context.seed, site.id)[0]) for site in sites]
        nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
        return [_magnitude(nodes, () if site.block is None else site.block.inner) for site in sites]

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with the readers of each block's output reading its residual input."""
        copy = model.copy()
        graph = copy.graph
        tensors = graph.tensors()
        given_out = {id(tensor) for tensor in graph.outputs}
        gone: set[int] = set()
        stands_for: dict[str, str] = {}
        changes = []
        for edit in edits:
            output, stream = str(edit.args["output"]), str(edit.args["stream"])
            if output not in tensors or stream not in tensors:
                raise Declined(f"{edit.site}: the model has no tensors {output!r} and {stream!r}")
            old, new = tensors[output], tensors[stands_for.get(stream, stream)]
            substitute(old, new)
            if id(old) in given_out:
                # The name of a graph output must stay: the stream is handed over under it.
                add = old.inputs[0]
                old.inputs.clear()
                graph.nodes.append(gs.Node("Identity", name=output, inputs=[new], outputs=[old]))
                add.outputs.append(gs.Variable(f"{output}.removed"))
                old = add.outputs[0]
            else:
                stands_for[output] = new.name
            freed = _release(old, given_out, gone)
            changes.append(
                Change(
                    site=edit.site,
                    what="block removed",
                    params_before=sum(map(elements, freed)),
                    bytes_before=sum(map(stored_bytes, freed)),
                )
            )
        graph.nodes = [node for node in graph.nodes if id(node) not in gone]
        graph.cleanup(remove_unused_graph_inputs=False)
        known = {name: entry for edit in edits for name, entry in edit.args["blocks"].items()}
        return with_registered(copy, {name: {**entry, "units": 1} for name, entry in known.items()}), tuple(changes)


def _magnitude(nodes: Mapping[str, gs.Node], inner: Sequence[str]) -> float:
    weights = {
        tensor.name: numbers(tensor)
        for name in inner
        for tensor in nodes[name].inputs
        if isinstance(tensor, gs.Constant) and np.dtype(tensor.dtype).kind == "f"
    }
    return float(scores.magnitude([(values.reshape(1, -1), 0, _ONE) for values in weights.values()], 1)[0])


def _release(tensor: gs.Tensor, given_out: set[int], gone: set[int]) -> list[gs.Constant]:
    """Take out the nodes that only computed a tensor that nothing reads any more; the constants that go with them."""
    freed: list[gs.Constant] = []
    queue = [tensor]
    while queue:
        unread = queue.pop()
        if unread.outputs or id(unread) in given_out:
            continue
        if isinstance(unread, gs.Constant):
            freed.append(unread)
            continue
        for node in list(unread.inputs):
            if any(out.outputs or id(out) in given_out for out in node.outputs):
                continue
            gone.add(id(node))
            sources = {id(source): source for source in node.inputs}
            node.inputs.clear()
            queue += sources.values()
    return freed
