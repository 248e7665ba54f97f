"""Store weights in fewer bytes; the runtime decodes them when it makes a session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.decoding import Decoded, Decoding
from onnxprune.errors import Declined
from onnxprune.graph import elements, numbers, stored_bytes
from onnxprune.model import Model, StoredSparse
from onnxprune.packing import Dense, Form, PackWriter, encode, find_packed
from onnxprune.packing.forms import decoding_bytes
from onnxprune.packing.reading import constants_of
from onnxprune.packing.symbols import storable
from onnxprune.packing.writing import CODED_OPSET, MASKED_OPSET
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import Range, check_ranges, within
from onnxprune.sites import GRAPH, Site

Array = np.ndarray[Any, Any]

# Below this many bytes a weight cannot save more than its operators take.
_SMALLEST_BYTES = 1024


@dataclass(frozen=True)
class _Gain:
    """Bytes that a weight's form saves in the file, and takes while it is decoded."""

    name: str
    saved: int
    decoding: int


@dataclass(frozen=True, kw_only=True)
class PackWeights:
    """Store each weight in the smallest of several forms that the runtime decodes at load. Runs do not change.

    Bitmaps with the numbers that are not zero, few different numbers as codes of 1 to 8 bits, and both together.

    Attributes:
        saving: least share of a weight's bytes that a form must save, in [0, 1).
        memory: megabytes that decoding may take beside the weights until a session is made; those that save most a
            megabyte are packed first.
    """

    name: ClassVar[str] = "pack-weights"
    lossless: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    saving: Annotated[float, within("[0, 1)")] = 0.05
    memory: Annotated[int, Range("0 megabytes or more", lambda value: value >= 0)] = 4096

    def __post_init__(self) -> None:
        """Reject shares that nothing can save, and less memory than none."""
        check_ranges(self, self.name)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: the weights say it all."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a weight that has a smaller form, and that the runtime was seen to decode at load."""
        del sites
        opset = model.graph.opset
        if opset < CODED_OPSET:
            raise Declined(f"decoding at load needs opset {CODED_OPSET}, the graph has {opset}")
        found: list[_Gain] = []
        held = 0
        for constant in _candidates(model):
            held += 1
            form, size = _form_of(constant, opset), stored_bytes(constant)
            if form.nbytes < (1 - self.saving) * size:
                found.append(_Gain(constant.name, size - form.nbytes, decoding_bytes(form)))
        if not found:
            why = f"dense is smallest for each of its {held} weights" if held else "no weight of it is large enough"
            return Proposal((), (Skip(site=GRAPH, why=why),))
        fitting = self._within_memory(found)
        why = f"decoding it would take a session over {self.memory} MB (option memory)"
        skips = tuple(Skip(site=gain.name, why=why) for gain in found if gain.name not in fitting)
        edits = tuple(self._edit(gain.name) for gain in found if gain.name in fitting)
        if not edits:
            return Proposal((), skips)
        if context.decoding is None:
            raise Declined("no runtime at hand to see whether it decodes weights at load")
        proved = self._folded(model, edits, context.decoding(model))
        return Proposal(proved.edits, (*skips, *proved.skips))

    def _within_memory(self, found: Sequence[_Gain]) -> frozenset[str]:
        """Names of weights that can be decoded together."""
        left, names = self.memory * 10**6, set()
        for gain in sorted(found, key=lambda one: one.decoding / max(one.saved, 1)):
            if gain.decoding <= left:
                left -= gain.decoding
                names.add(gain.name)
        return frozenset(names)

    def _edit(self, name: str) -> Edit:
        return Edit(id=f"{self.name}.{name}", pass_name=self.name, site=name, kind="pack", args={"weight": name})

    def _folded(self, model: Model, edits: tuple[Edit, ...], decoding: Decoding) -> Proposal:
        """The edits whose weights a session of the written model holds dense, found by running; the others with why."""
        skips: list[Skip] = []

        def tried(some: Sequence[Edit]) -> Decoded:
            packed = self.apply(model, some)[0]
            return decoding.of(packed, {edit.site for edit in some})

        def largest(some: tuple[Edit, ...]) -> tuple[Edit, ...]:
            """Halves are tried alone where the whole does not fold."""
            found = tried(some) if some else Decoded()
            if found.whole:
                return some
            if len(some) == 1:
                why = found.why or "the runtime would decode it at every run"
                skips.append(Skip(site=some[0].site, why=why))
                return ()
            unfolded = tuple(edit for edit in some if edit.site in found.left)
            if unfolded and len(unfolded) < len(some):
                return largest(tuple(edit for edit in some if edit not in unfolded)) + largest(unfolded)
            middle = len(some) // 2
            return largest(some[:middle]) + largest(some[middle:])

        kept = largest(edits)
        # What folds in parts may not fold as a whole.
        if len(kept) < len(edits) and kept and not tried(kept).whole:
            return Proposal((), (*skips, Skip(site=GRAPH, why="its weights fold one by one, but not together")))
        order = {edit.id: at for at, edit in enumerate(edits)}
        return Proposal(tuple(sorted(kept, key=lambda edit: order[edit.id])), tuple(skips))

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with weights stored in their smallest forms; the dense ones say which those are."""
        result = model.copy()
        held = {constant.name: constant for constant in _candidates(result)}
        opset = result.graph.opset
        writer = PackWriter(result.graph)
        changes = []
        for edit in edits:
            constant = held.get(edit.args["weight"])
            if constant is None:
                raise Declined(f"{edit.site}: the model has no weight {edit.args['weight']!r} that can be packed")
            form = _form_of(constant, opset)
            if isinstance(form, Dense):
                raise Declined(f"{edit.site}: dense is its smallest form")
            already, before = writer.added_bytes, stored_bytes(constant)
            writer.replace(constant, form)
            changes.append(
                Change(
                    site=edit.site,
                    what=f"{form.words}: {'x'.join(map(str, constant.shape))} {constant.dtype}",
                    params_before=elements(constant),
                    params_after=elements(constant),
                    bytes_before=before,
                    bytes_after=writer.added_bytes - already,
                )
            )
        writer.finish()
        return result, tuple(changes)


def _candidates(model: Model) -> Iterator[gs.Constant]:
    """Constants of the top graph that only nodes read, and that are not parts of packed weights already."""
    graph = model.graph
    taken = {id(tensor) for tensor in constants_of(find_packed(graph))} | {id(tensor) for tensor in graph.outputs}
    seen: set[int] = set()
    for node in graph.nodes:
        for tensor in node.inputs:
            if not isinstance(tensor, gs.Constant) or id(tensor) in seen | taken or tensor.name in model.overridable:
                continue
            seen.add(id(tensor))
            if stored_bytes(tensor) >= _SMALLEST_BYTES and not isinstance(tensor._values, StoredSparse):  # noqa: SLF001 - not read
                yield tensor


def _form_of(constant: gs.Constant, opset: int) -> Form:
    """The smallest form of a weight."""
    values = numbers(constant)
    if values.dtype == object or values.dtype.kind == "c":
        return Dense(np.zeros(0))
    return encode(storable(values), masks=opset >= MASKED_OPSET)
