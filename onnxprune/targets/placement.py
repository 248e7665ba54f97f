"""Which node runs where: counts by provider, partitions, and what fell back to another provider, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxprune.errors import TargetError

CPU = "CPUExecutionProvider"
XNNPACK = "XnnpackExecutionProvider"
# Operators that the XNNPACK provider has kernels for, and what it asks of them; each was tried on onnxruntime 1.21.
_SPATIAL = "a 4-D input of fixed channels, height and width"
_XNNPACK = {
    "AveragePool": f"{_SPATIAL}, float or U8",
    "Clip": "constant bounds, right behind a float Conv or pool of its own",
    "Conv": f"{_SPATIAL} and constant weights, float, S8S8 or U8U8",
    "ConvTranspose": f"{_SPATIAL} and constant weights, float, S8S8 or U8U8",
    "Gemm": "a float input of 1 or 2 dimensions and constant weight and bias",
    "MatMul": "a float input of 2 dimensions and a constant weight",
    "MaxPool": f"{_SPATIAL}",
    "QLinearConv": f"{_SPATIAL} and constant weights, S8S8 or U8U8",
    "Relu": "a float Conv or pool of its own right before it",
    "Resize": "a 4-D input, linear interpolation and constant sizes",
    "Softmax": "its last axis, of a fixed size",
}
_ASKED: dict[str, Mapping[str, str]] = {XNNPACK: _XNNPACK}


@dataclass(frozen=True)
class Node:
    """A node as the runtime sees it after its own optimizations.

    Attributes:
        provider: that runs it.
        op: its operator, with the domain in front where it is not onnx's own.
        name: as the graph calls it, or as the runtime does where it made it.
    """

    provider: str
    op: str
    name: str


@dataclass(frozen=True)
class Fallen:
    """Nodes of one operator that the asked provider left to another one."""

    op: str
    count: int
    provider: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the nodes of one model run.

    Attributes:
        provider: the one that was asked for.
        nodes: in the runtime's order.
        partitions: groups that the asked provider compiled as one, or stretches of nodes that it runs without another
            provider's in between.
        reasons: why an operator was left to another provider, where that is known of this very model.
    """

    provider: str
    nodes: tuple[Node, ...]
    partitions: int
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Nodes by provider; the asked one stands first, with 0 where it takes none."""
        found = Counter(node.provider for node in self.nodes)
        others = sorted(name for name in found if name != self.provider)
        return {name: found[name] for name in (self.provider, *others)}

    @property
    def fallen(self) -> tuple[Fallen, ...]:
        """What the asked provider left to others, by operator."""
        left = Counter((node.op, node.provider) for node in self.nodes if node.provider != self.provider)
        return tuple(Fallen(op, count, other, self._why(op)) for (op, other), count in sorted(left.items()))

    def _why(self, op: str) -> str:
        if op in self.reasons:
            return self.reasons[op]
        asked = _ASKED.get(self.provider)
        short = self.provider.removesuffix("ExecutionProvider")
        if asked is None:
            return f"{short} did not take it"
        if op not in asked:
            return f"{short} has no kernel for it in this form"
        return f"{short} takes it only with {asked[op]}"

    def to_json(self) -> dict[str, Any]:
        """Counts, partitions, what fell back, and every node."""
        return {
            "provider": self.provider,
            "counts": self.counts,
            "partitions": self.partitions,
            "fallen": [
                {"operator": each.op, "nodes": each.count, "provider": each.provider, "why": each.why}
                for each in self.fallen
            ],
            "nodes": [{"name": node.name, "operator": node.op, "provider": node.provider} for node in self.nodes],
        }


def read_placement(target: str, provider: str, answer: Any, models: int) -> tuple[Placement, ...]:
    """Placements out of a worker's answer.

    Args:
        target: as reports name it.
        provider: the one that was asked for.
        answer: per model a list of groups, each a list of [provider, operator, domain, name].
        models: how many were asked about.

    Raises:
        TargetError: the answer has another form.
    """
    if not isinstance(answer, list) or len(answer) != models:
        raise TargetError(f"{target}: its process did not tell which node runs where; nothing of it is used.")
    return tuple(_placement(target, provider, groups) for groups in answer)


def _placement(target: str, provider: str, groups: Any) -> Placement:
    nodes: list[Node] = []
    partitions, after = 0, ""
    for group in groups if isinstance(groups, list) else [None]:
        entries = group if isinstance(group, list) else []
        members = [node for entry in entries if (node := _node(entry))]
        if not members or len(members) < len(entries):
            raise TargetError(f"{target}: its process told nonsense about where nodes run; nothing of it is used.")
        # A provider that compiles takes many nodes as one; one with kernels takes them one by one, side by side.
        if members[0].provider == provider and (len(members) > 1 or after != provider):
            partitions += 1
        after = members[-1].provider
        nodes += members
    return Placement(provider=provider, nodes=tuple(nodes), partitions=partitions)


def _node(entry: Any) -> Node | None:
    if not (isinstance(entry, list) and len(entry) == 4 and all(isinstance(part, str) for part in entry)):
        return None
    provider, op, domain, name = ("".join(char for char in part if char.isprintable())[:200] for part in entry)
    # Layout changes move nodes into a domain of the runtime's own; the operator stays what it is.
    foreign = domain not in {"", "ai.onnx", "com.ms.internal.nhwc"}
    return Node(provider, f"{domain}:{op}" if foreign else op, name)


def summary(placement: Placement) -> str:
    """One line: `12 of 20 nodes on XNNPACK in 3 partitions`."""
    mine, total = placement.counts[placement.provider], len(placement.nodes)
    short = placement.provider.removesuffix("ExecutionProvider")
    if not total:
        return "no node is left to run"
    if mine == total:
        return f"all {total} nodes on {short}"
    parts = "partition" if placement.partitions == 1 else "partitions"
    return f"{mine} of {total} nodes on {short} in {placement.partitions} {parts}"


def unused(placements: Sequence[Placement]) -> bool:
    """Whether the asked provider takes no node of any of the models: the figures are then another provider's."""
    return all(not placement.counts[placement.provider] for placement in placements)
