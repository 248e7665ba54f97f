"""The passes, in the order in which a pipeline runs them; third parties add theirs through an entry point."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from onnxprune.errors import OptionError
from onnxprune.passes.approximate_activations import ApproximateActivations
from onnxprune.passes.cluster import Cluster
from onnxprune.passes.factor_embedding import FactorEmbedding
from onnxprune.passes.factor_linear import FactorLinear
from onnxprune.passes.merge_blocks import MergeBlocks
from onnxprune.passes.ngram import Ngram
from onnxprune.passes.pack_weights import PackWeights
from onnxprune.passes.recover import Recover
from onnxprune.passes.remove_blocks import RemoveBlocks
from onnxprune.passes.remove_channels import RemoveChannels
from onnxprune.passes.remove_dead import RemoveDead
from onnxprune.passes.remove_heads import RemoveHeads
from onnxprune.passes.remove_neurons import RemoveNeurons
from onnxprune.passes.simplify import Simplify
from onnxprune.passes.smooth_activations import SmoothActivations
from onnxprune.passes.sparse_int8 import SparseInt8
from onnxprune.passes.streamline import Streamline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxprune.protocol import Pass

OWN: tuple[type[Any], ...] = (
    Simplify,
    RemoveDead,
    RemoveBlocks,
    MergeBlocks,
    RemoveHeads,
    RemoveNeurons,
    RemoveChannels,
    FactorLinear,
    FactorEmbedding,
    Ngram,
    Recover,
    SmoothActivations,
    SparseInt8,
    Cluster,
    ApproximateActivations,
    Streamline,
    PackWeights,
)


@cache
def known() -> Mapping[str, type[Pass]]:
    """Every pass by name: our own, then those of installed packages.

    Raises:
        OptionError: two passes have one name.
    """
    passes: dict[str, type[Pass]] = {kind.name: kind for kind in OWN}
    for entry in entry_points(group="onnxprune.passes"):
        kind = entry.load()
        if kind.name in passes:
            raise OptionError(f"Two passes are named {kind.name!r}. Uninstall {entry.value!r} or rename it.")
        passes[kind.name] = kind
    return MappingProxyType(passes)


__all__ = [
    "OWN",
    "ApproximateActivations",
    "Cluster",
    "FactorEmbedding",
    "FactorLinear",
    "MergeBlocks",
    "Ngram",
    "PackWeights",
    "Recover",
    "RemoveBlocks",
    "RemoveChannels",
    "RemoveDead",
    "RemoveHeads",
    "RemoveNeurons",
    "Simplify",
    "SmoothActivations",
    "SparseInt8",
    "Streamline",
    "known",
]
