"""Edits of back-off models: fewer keys in the tables that are there, or other tables behind classes of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import producer
from onnxprune.model import Model
from onnxprune.ngrams.backoff import BackOff, Classes, Table
from onnxprune.ngrams.clustering import CLASS
from onnxprune.ngrams.encoders import DOMAIN, is_encoder, keys_of, values_of, write_encoder
from onnxprune.ngrams.proving import Encoded
from onnxprune.ngrams.pruning import Joint
from onnxprune.ngrams.reading import Site
from onnxprune.ngrams.writing import Writer, bits_for
from onnxprune.rewrite import Rewriter

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

# Behind the name of an output, in the names of all that computes it by classes.
CLUSTERED = ".clustered"


def pruned_args(site: Site, smaller: Joint) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `prune` needs to give the tables of a site fewer keys, as JSON values and tensors."""
    names: list[str] = []
    tensors: dict[str, Array] = {}
    for found, model in zip(site.found, smaller.models, strict=True):
        for encoded, table in zip(found.encoders, (*model.grams, *model.alphas), strict=True):
            at = len(names)
            names.append(encoded.name)
            ids = encoded.ids()
            places = table.find(ids)
            tensors[f"kept.{at}"] = np.packbits(places >= 0)
            if encoded in found.alphas:
                tensors[f"values.{at}"] = _stored(table.values[places[places >= 0]], found.unit)
    return {"tables": names}, tensors


def prune(model: Model, args: Mapping[str, Any], tensors: Tensors, where: str) -> Model:
    """The model with fewer keys in its tables.

    Raises:
        Declined: a table is missing or has another number of keys.
    """
    result = model.copy()
    nodes = {str(node.outputs[0].name): node for node in result.graph.nodes if is_encoder(node)}
    for at, name in enumerate(args["tables"]):
        node = nodes.get(str(name))
        if node is None:
            raise Declined(f"{where}: the model has no table {name!r}")
        keys, values = keys_of(node), np.asarray(values_of(node))
        bits = tensors[f"kept.{at}"]
        if len(bits) != (len(keys) + 7) // 8:
            raise Declined(f"{where}: table {name!r} has {len(keys)} keys, the plan is of another number")
        kept = np.unpackbits(bits, count=len(keys)).astype(bool)
        other = tensors.get(f"values.{at}")
        if not kept.any() or (other is not None and len(other) != kept.sum()):
            raise Declined(f"{where}: table {name!r} does not have as many keys as the plan says")
        write_encoder(node, keys[kept], values[kept] if other is None else other)
    return result


def clustered_args(site: Site, joint: Joint, classes: Classes) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `cluster` needs to put tables of classes and words in place of a site's one model."""
    found = site.found[0]
    tensors = {"words": classes.words, "classes": classes.classes}
    tables = []
    for model, name in zip(joint.models, ("class", "words"), strict=True):
        for kind, held in (("p", model.grams), ("alpha", model.alphas)):
            for order, table in enumerate(held, 1):
                tensors[f"{name}.{kind}{order}.ids"] = table.ids
                tensors[f"{name}.{kind}{order}.values"] = table.values.astype(np.float32)
                tables.append([name, kind, order, list(table.columns)])
    args = {
        "output": found.output.name,
        "scale": found.scale,
        "word": found.model.word,
        "other": classes.other,
        "unknown": found.model.unknown,
        "columns": [_column(found.encoders, name) for name in site.joint.chain],
        "tables": tables,
    }
    return args, tensors


def cluster(model: Model, args: Mapping[str, Any], tensors: Tensors, where: str) -> Model:
    """The model with the output of its tables computed by others, behind the same ids.

    Raises:
        Declined: a tensor is missing.
    """
    result = model.copy()
    graph = result.graph
    held = graph.tensors()
    output = held.get(str(args["output"]))
    last = producer(output) if output is not None else None
    keys = {str(column["key"]) for column in args["columns"]}
    if last is None or not keys <= held.keys():
        raise Declined(f"{where}: the model has no tensor {args['output']!r} behind {', '.join(sorted(keys))}")
    models = _models(args, tensors)
    rewriter = Rewriter(graph)
    writer = Writer(rewriter, {}, f"{output.name}{CLUSTERED}", bits_for(models))
    for column in args["columns"]:
        writer.ids[str(column["name"])] = writer.digit(held[str(column["key"])], column)
    writer.classes(CLASS, models[0].classes[CLASS])
    first, second = (writer.model(one, name) for one, name in zip(models, ("class", "words"), strict=True))
    writer.finish(writer.sum(first, second), float(args["scale"]))
    rewriter.replace(last, writer.nodes)
    rewriter.finish()
    graph.cleanup(remove_unused_graph_inputs=False)
    return result


def _models(args: Mapping[str, Any], tensors: Tensors) -> tuple[BackOff, BackOff]:
    word = str(args["word"])
    classes = Classes(of=word, words=tensors["words"], classes=tensors["classes"], other=int(args["other"]))
    held: dict[tuple[str, str], list[Table]] = {}
    for name, kind, order, columns in args["tables"]:
        table = Table(
            columns=tuple(columns),
            ids=tensors[f"{name}.{kind}{order}.ids"],
            values=tensors[f"{name}.{kind}{order}.values"],
        )
        held.setdefault((name, kind), []).append(table)
    of_class, of_word = (
        BackOff(
            word=predicted,
            grams=tuple(held[name, "p"]),
            alphas=tuple(held[name, "alpha"]),
            classes={CLASS: classes},
            unknown=unknown,
        )
        for name, predicted, unknown in (("class", CLASS, float(args["unknown"])), ("words", word, 0.0))
    )
    return of_class, of_word


def _column(encoders: Sequence[Encoded], name: str) -> dict[str, Any]:
    """How one id is taken out of the key of the smallest table that has it."""
    table = min((one for one in encoders if name in one.columns), key=lambda one: len(one.columns))
    at = table.columns.index(name)
    own = table.form.multiples[name]
    above = table.form.multiples[table.columns[at - 1]] if at else None
    return {
        "name": name,
        "key": table.node.inputs[0].name,
        "constant": table.form.constant,
        "multiple": own,
        "size": None if above is None else above // own,
    }


def _stored(values: Array, unit: float) -> Array:
    found: Array = (np.exp(values) if not unit else values / unit).astype(np.float32)
    return found


def table_storage(graph: gs.Graph) -> tuple[int, int]:
    """Numbers and bytes of tables that nodes hold as attributes: what n-grams and the linears behind them take."""
    params = size = 0
    for node in graph.nodes:
        if is_encoder(node):
            values = values_of(node)
            count = 0 if values is None else len(values)
            params, size = params + count, size + 12 * count
        elif node.op == "TfIdfVectorizer":
            grams = len(node.attrs.get("ngram_indexes", ()))
            params, size = params + grams, size + 12 * grams
        elif node.domain == DOMAIN and "coefficients" in node.attrs:
            count = len(node.attrs["coefficients"])
            params, size = params + count, size + 4 * count
    return params, size
