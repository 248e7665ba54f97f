"""Back-off models in a graph, found by what their tables are keyed by and by how the graph combines them.

A table is keyed by ids packed into one number. The columns of the tables must nest as n-grams and histories do, and the
nodes behind them must give, for every pattern of hits and misses, the longest hit plus the alphas above it: that is
tried, not matched. Last, the unigrams must sum to one, and so must every history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.ngrams.backoff import BackOff, Classes
from onnxprune.ngrams.encoders import default_of, is_encoder, keys_of, values_of
from onnxprune.ngrams.forms import Forms
from onnxprune.ngrams.interpreting import interpreted
from onnxprune.ngrams.proving import Encoded, combined, model_of, unnormalised
from onnxprune.ngrams.pruning import Joint

Array = np.ndarray[Any, Any]

# Natural logarithms, those of ARPA files, and bits.
_UNITS = (1.0, float(np.log(10)), float(np.log(2)))


@dataclass(frozen=True, eq=False)
class Found:
    """A back-off model in a graph.

    Attributes:
        model: natural logarithms.
        grams: the nodes of its n-grams, in the order of `model.grams`.
        alphas: the nodes of its alphas.
        output: the tensor that is ln p, or p, or a multiple of ln p.
        unit: natural logarithm of what the tables' logarithms are to; 0 where they hold probabilities.
        scale: what ln p is multiplied by in `output`; 0 where it is p.
    """

    model: BackOff
    grams: tuple[Encoded, ...]
    alphas: tuple[Encoded, ...]
    output: gs.Tensor
    unit: float
    scale: float

    @property
    def encoders(self) -> tuple[Encoded, ...]:
        """All its tables."""
        return (*self.grams, *self.alphas)

    @cached_property
    def tables(self) -> frozenset[str]:
        """What they give out."""
        return frozenset(one.name for one in self.encoders)


@dataclass(frozen=True)
class Site:
    """One model, or that of a word's class and that of the word in its class."""

    found: tuple[Found, ...]

    @property
    def joint(self) -> Joint:
        """What they say together."""
        last = self.found[-1].model
        chain = [last.word]
        for one in (found.model for found in self.found):
            for table in (*one.grams, *one.alphas):
                chain += [name for name in reversed(table.columns) if name not in {*chain, *last.classes, one.word}]
        return Joint(tuple(one.model for one in self.found), tuple(chain))


def find_models(graph: gs.Graph) -> tuple[tuple[Site, ...], dict[str, str]]:
    """Back-off models of a graph, and why tables that look like parts of one are none, by the table's output."""
    tables, classes = _tables(graph)
    found: list[Found] = []
    why = dict.fromkeys(tables, "the graph does not combine it with others as a back-off model does")
    for output, names in _cones(graph, tables):
        inner = [one for one in found if names >= one.tables]
        # What a model's output is scaled by or added to is no other model; a longer one has shorter ones within.
        if any(one.tables == names for one in inner) or any(names & one.tables for one in found if one not in inner):
            continue
        for roles in _roles([tables[name] for name in sorted(names)], classes):
            try:
                one = _verified(graph, output, *roles, classes)
            except Declined as reason:
                why |= dict.fromkeys(names, str(reason))
                continue
            if one is not None:
                found = [other for other in found if other not in inner] + [one]
                break
    for one in found:
        for table in one.encoders:
            why.pop(table.name, None)
    return tuple(_sites(found)), why


def _tables(graph: gs.Graph) -> tuple[dict[str, Encoded], dict[str, tuple[str, gs.Node]]]:
    """Tables of floats by their outputs; and atoms that are a table of classes of another atom."""
    forms, tables, classes = Forms(), {}, {}
    for node in graph.nodes:
        if not is_encoder(node) or len(node.outputs) != 1:
            continue
        form, values = forms.of(node.inputs[0]), values_of(node)
        if values is None or not len(values):
            continue
        if values.dtype.kind == "i":
            if form.atom is not None:
                classes[str(node.outputs[0].name)] = (form.atom, node)
        elif form.multiples and min(form.multiples.values()) > 0:
            columns = tuple(sorted(form.multiples, key=lambda name: -form.multiples[name]))
            tables[str(node.outputs[0].name)] = Encoded(node, form, columns)
    return tables, classes


def _cones(graph: gs.Graph, tables: Mapping[str, Encoded]) -> Iterator[tuple[gs.Tensor, frozenset[str]]]:
    """Tensors that elementwise nodes make of several tables, with these tables, in data order."""
    behind = {name: frozenset([name]) for name in tables}
    ones = {name: np.ones(1, np.float32) for name in tables}
    for node in graph.nodes:
        value = interpreted(node, ones)
        if value is None or any(out.name in behind for out in node.outputs):
            continue
        name = node.outputs[0].name
        ones[name] = value
        behind[name] = frozenset().union(*(behind.get(t.name, frozenset()) for t in node.inputs))
        if len(behind[name]) >= 3 and value.dtype.kind == "f":
            yield node.outputs[0], behind[name]


def _roles(
    tables: Sequence[Encoded], classes: Mapping[str, tuple[str, gs.Node]]
) -> Iterator[tuple[str, list[Encoded], list[Encoded]]]:
    """Ways to read tables as n-grams of a word and alphas of its histories."""
    for word in sorted({name for table in tables for name in table.columns}):
        grams = sorted((t for t in tables if word in t.columns), key=lambda table: len(table.columns))
        alphas = sorted((t for t in tables if word not in t.columns), key=lambda table: len(table.columns))
        whole = [_closed(table.columns, classes) for table in grams]
        if len(grams) < 2 or len(alphas) != len(grams) - 1 or any(not a < b for a, b in pairwise(whole)):
            continue
        pairs = list(zip(alphas, whole[1:], strict=True))
        # An alpha's history holds the words before, and nothing that only the whole n-gram has.
        before = [columns - {word} for _, columns in pairs]
        held = [set(alpha.columns) for alpha, _ in pairs]
        if all(own >= columns >= own - set(classes) for own, columns in zip(before, held, strict=True)):
            yield word, grams, alphas


def _closed(columns: Sequence[str], classes: Mapping[str, tuple[str, gs.Node]]) -> set[str]:
    return {*columns, *(name for name, (of, _) in classes.items() if of in columns)}


def _verified(
    graph: gs.Graph,
    output: gs.Tensor,
    word: str,
    grams: Sequence[Encoded],
    alphas: Sequence[Encoded],
    classes: Mapping[str, tuple[str, gs.Node]],
) -> Found | None:
    """The model of these tables; None where the graph combines them otherwise.

    Raises:
        Declined: it is combined as a back-off model is, but is no distribution.
    """
    for linear in (False, True):
        scale = combined(graph, output, grams, alphas, linear=linear)
        if scale is not None:
            break
    else:
        return None
    used = {name for table in alphas for name in table.columns} & classes.keys()
    derived = {
        name: Classes(
            of=classes[name][0],
            words=keys_of(classes[name][1]),
            classes=np.asarray(values_of(classes[name][1])),
            other=int(default_of(classes[name][1])),
        )
        for name in used
    }
    read: list[BackOff] = []
    why = ""
    for unit in (0.0,) if linear else _UNITS:
        model = model_of(word, grams, alphas, derived, unit)
        why = why or (unnormalised(model) or "")
        if unnormalised(model) is None:
            return Found(model, tuple(grams), tuple(alphas), output, unit, scale * (1 / unit if unit else 1.0))
        read.append(model)
    raise Declined(why)


def _sites(found: Sequence[Found]) -> Iterator[Site]:
    """Models that stand alone, and those of classes with the models of words in these classes."""
    words = {one.model.word: one for one in found}
    taken = set()
    for one in found:
        for name in one.model.classes:
            if name in words:
                taken |= {id(one), id(words[name])}
                # What predicts the class has to know it of words, too.
                of_class = replace(words[name].model, classes={name: one.model.classes[name]})
                yield Site((replace(words[name], model=of_class), one))
                break
    for one in found:
        if id(one) not in taken:
            yield Site((one,))
