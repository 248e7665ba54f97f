"""Places where a pass can act. A site's id is structural: the same in every run on the same file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from onnxprune.graph import elements
from onnxprune.model import Model
from onnxprune.weights import Weight, find_weights

Kind = Literal["graph", "linear", "embedding", "heads", "neurons", "channels", "block"]

GRAPH = "graph"


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place where a pass can act.

    Attributes:
        id: `{kind}.{number}`, numbered in data order.
        units: how many units can be counted there: output features of a linear, rows of an embedding.
        unit_size: numbers a unit holds in the weight.
        weight: name of the stored constant; empty where a site is no single weight.
        uses: names of the first outputs of the nodes that read it.
    """

    id: str
    kind: Kind
    units: int = 0
    unit_size: int = 0
    params: int = 0
    weight: str = ""
    uses: tuple[str, ...] = ()
    operator: str = ""

    @property
    def shared_by(self) -> int:
        """How many nodes read the same weight."""
        return len(self.uses)


def find_sites(model: Model) -> tuple[Site, ...]:
    """The whole graph, then every linear and embedding in data order."""
    counts: Counter[str] = Counter()
    sites = [Site(id=GRAPH, kind="graph")]
    for weight in find_weights(model.graph, model.overridable):
        kind: Kind = "embedding" if weight.uses[0].role == "embedding" else "linear"
        sites.append(_weight_site(weight, kind, f"{kind}.{counts[kind]}"))
        counts[kind] += 1
    return tuple(sites)


def _weight_site(weight: Weight, kind: Kind, name: str) -> Site:
    numbers = elements(weight.constant)
    units = weight.constant.shape[0] if kind == "embedding" else numbers // _fan_in(weight)
    return Site(
        id=name,
        kind=kind,
        units=units,
        unit_size=numbers // units if units else 0,
        params=numbers,
        weight=weight.constant.name,
        uses=tuple(use.name for use in weight.uses),
        operator=weight.uses[0].node.op,
    )


def _fan_in(weight: Weight) -> int:
    """Numbers that feed one output feature."""
    use, shape = weight.uses[0], weight.constant.shape
    if use.role == "conv":
        axis = 1 if use.node.op == "ConvTranspose" else 0
        return max(1, elements(weight.constant) // max(1, int(shape[axis])))
    if use.role == "recurrent":
        return max(1, int(shape[-1]))
    order = use.permutation or tuple(range(len(shape)))
    transposed = use.node.op in {"Gemm", "FusedGemm"} and use.node.attrs.get("transB", 0)
    axis = order[-1 if transposed else -2] if len(order) == len(shape) else -2
    return max(1, int(shape[axis]))
