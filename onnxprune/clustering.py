"""One weight as places in a codebook: which numbers, which of them where, and how that stands in a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.errors import Declined
from onnxprune.inputs import Inputs, Source
from onnxprune.memory import kept as kept_by
from onnxprune.model import Model
from onnxprune.packing import Dense, PackWriter, encode
from onnxprune.packing.lookups import fits, write_lookup
from onnxprune.packing.symbols import as_bits, distinct
from onnxprune.packing.writing import CODED_OPSET, MASKED_OPSET
from onnxprune.protocol import Context
from onnxprune.quantizing.leaving import refuse
from onnxprune.quantizing.matrices import Layout, layout_of, sources_of
from onnxprune.solvers import sparsegpt
from onnxprune.solvers.kmeans import centroids, nearest
from onnxprune.weights import Weight

Array = np.ndarray[Any, Any]

# Second moments of inputs that are alive at once.
_MEMORY_BYTES = 1 << 29


@dataclass(frozen=True, eq=False)
class Clustered:
    """A weight of few different numbers.

    Attributes:
        symbols: uint8 in the stored shape, places in the codebook.
        codebook: [up to 256], sorted, of the weight's type.
    """

    symbols: Array
    codebook: Array

    @property
    def values(self) -> Array:
        """The weight."""
        numbers: Array = self.codebook[self.symbols]
        return numbers


@dataclass(frozen=True, eq=False)
class Seen:
    """What a weight is multiplied with.

    Attributes:
        gram: [groups, k, k] its second moments, one group for all or one each; None where they are not told.
        blind: why not; empty where there are no samples at all, or rows are only looked up.
    """

    gram: Array | None = None
    blind: str = ""


def seen_in_turn(weights: Sequence[Weight], model: Model, context: Context) -> Iterator[tuple[Weight, Seen]]:
    """Each weight with what it is multiplied with, as many as memory holds in one way through the samples."""
    batch: list[tuple[Weight, tuple[Source, ...]]] = []
    used = 0
    for weight in weights:
        try:
            layout = layout_of(weight)
            sources = sources_of(weight, layout) if context.compare_inputs is not None else ()
        except Declined as reason:
            yield weight, Seen(blind=str(reason))
            continue
        groups, k, _ = layout.size
        size = 16 * groups * k * k if sources else 0
        if batch and used + size > _MEMORY_BYTES:
            yield from _seen(batch, model, context)
            batch, used = [], 0
        batch.append((weight, sources))
        used += size
    yield from _seen(batch, model, context)


def _seen(
    batch: Sequence[tuple[Weight, tuple[Source, ...]]], model: Model, context: Context
) -> Iterator[tuple[Weight, Seen]]:
    wanted = {source for _, sources in batch for source in sources}
    moments: Mapping[Source, Inputs] = {}
    if wanted and context.compare_inputs is not None:
        moments = context.compare_inputs(model, model, wanted)
    for weight, sources in batch:
        if not sources:
            yield weight, Seen()
            continue
        grams = [moments[source].gram for source in sources]
        total = np.sum([gram if gram.ndim == 3 else gram[None] for gram in grams], axis=0)
        yield weight, Seen(total / max(sum(moments[source].rows for source in sources), 1))


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight that is to have few numbers: plain data.

    Attributes:
        stored: its numbers.
        count: of different ones, zero among them where the weight has zeros.
        gram: [groups, k, k] second moments of inputs; one group serves all. None where they are not told.
        joint: whether inputs that are yet to come make up for rounding; only where `gram` is there.
    """

    stored: Array
    layout: Layout
    count: int
    gram: Array | None
    joint: bool


def codes_of(weight: Weight, count: int, gram: Array | None, *, joint: bool) -> Codes:
    """What there is to find for a weight.

    Raises:
        Declined: the weight has to stay as it is, or has no more numbers already.
    """
    refuse(weight)
    stored = np.ascontiguousarray(weight.constant.values)
    held = distinct(as_bits(stored.reshape(-1)))
    if held is not None and len(held) <= count:
        raise Declined(f"it holds {len(held)} different numbers, no more than {count}")
    return Codes(stored, layout_of(weight), count, gram, joint)


def cluster(codes: Codes) -> Clustered:
    """Few numbers for a weight, and which of them stands where."""
    stored, layout, gram = codes.stored, codes.layout, codes.gram
    dense = layout.matrices(stored).astype(np.float64)
    grams = None if gram is None else [gram[min(at, len(gram) - 1)] for at in range(len(dense))]
    kept = dense != 0
    mass = None
    if grams is not None:
        mass = np.broadcast_to(np.array([np.diagonal(moments) for moments in grams])[:, :, None], dense.shape)[kept]
    zeros = not kept.all()
    found = centroids(dense[kept], mass, codes.count - zeros)
    # Rounded to the weight's type before anything is held against them.
    book = np.unique(np.append(found, 0.0) if zeros else found).astype(stored.dtype)
    book = np.unique(book)
    wide = book.astype(np.float64)
    # Numbers beside zero must not become zero: which is zero is not for rounding to say.
    others = wide[wide != 0] if zeros else wide
    settled = dense
    if codes.joint and grams is not None:
        settled = np.array(
            [
                sparsegpt.solve(one, moments, kept=mask, codebook=others, descending=True).values
                for one, moments, mask in zip(dense, grams, kept, strict=True)
            ]
        )
    places = np.where(kept, np.searchsorted(wide, others)[nearest(settled, others)], np.searchsorted(wide, 0.0))
    return Clustered(kept_by(layout.stored(places.astype(np.uint8))), book)


def write_clustered(writer: PackWriter, weight: Weight, found: Clustered, opset: int) -> str:
    """Put places and codebook where a weight stood; rows that are looked up are decoded after that.

    Returns:
        The form, in words.

    Raises:
        Declined: the tensors are not those of the weight, or the opset is too old.
    """
    constant = weight.constant
    dtype = np.dtype(constant.dtype)
    if found.symbols.shape != tuple(constant.shape) or found.symbols.dtype != np.uint8:
        raise Declined(f"{constant.name!r} is {list(constant.shape)}, its places are {list(found.symbols.shape)}")
    if found.codebook.dtype != dtype or found.codebook.ndim != 1 or found.symbols.max() >= len(found.codebook):
        raise Declined(f"the codebook of {constant.name!r} does not fit it")
    if opset < CODED_OPSET:
        raise Declined(f"decoding at load needs opset {CODED_OPSET}, the graph has {opset}")
    gathers = [use.node for use in weight.uses if use.role == "embedding" and not use.views]
    rows = all(node.op == "Gather" and node.attrs.get("axis", 0) == 0 for node in gathers)
    if rows and len(gathers) == len(weight.uses) and fits(found.symbols.shape, len(found.codebook)):
        write_lookup(writer, str(constant.name), gathers, found.symbols, found.codebook)
        return "rows decoded when looked up"
    form = encode(found.values.reshape(-1), masks=opset >= MASKED_OPSET)
    if isinstance(form, Dense):
        raise Declined("its codes would save nothing")
    writer.replace(constant, form)
    return form.words
