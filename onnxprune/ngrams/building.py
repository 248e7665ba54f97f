"""From text or an ARPA file to a model file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.errors import DataError, Declined
from onnxprune.model import Model, save
from onnxprune.model.core import FileFields
from onnxprune.ngrams.text import CHAIN, Language, from_arpa, from_sentences, sentences_of
from onnxprune.ngrams.writing import Writer, bits_for
from onnxprune.rewrite import Rewriter

# Where a file keeps its words, one JSON list, in the order of their ids.
WORDS = "onnxprune.words"


def build_ngram(
    source: str | Path, output: str | Path, *, order: int = 3, discount: float = 0.7, cutoff: int = 0
) -> Language:
    """Write a back-off language model as ONNX: input `ids` int64 [batch, order], output `log_p` float32 [batch].

    A row of `ids` holds the words before, the oldest first, and last the word whose natural log-probability is asked
    for; -1 stands where a sentence has no word yet. The words by id stand in the file's metadata, `onnxprune.words`.

    Args:
        source: an `.arpa` file, or text in UTF-8, a sentence a line.
        output: the file to write.
        order: words of the longest n-grams of a model of text.
        discount: taken from each count of a text, in (0, 1).
        cutoff: words that a text has no more often than this become `<unk>`.

    Returns:
        The model with its words.

    Raises:
        DataError: the source is neither, or out of range.
        OutputError: the file cannot be written.
    """
    source = Path(source)
    try:
        if source.suffix == ".arpa":
            language = from_arpa(source)
        else:
            language = from_sentences(sentences_of(source), order=order, discount=discount, cutoff=cutoff)
        model = as_model(language)
    except Declined as reason:
        raise DataError(f"{source}: too many words for n-grams so long: {reason}. Give a lower order.") from reason
    save(model, Path(output))
    return language


def as_model(language: Language) -> Model:
    """The model of a language in memory.

    Raises:
        Declined: its ids do not fit the keys.
    """
    order = language.model.order
    ids = gs.Variable("ids", np.int64, ["batch", order])
    graph = gs.Graph(nodes=[], inputs=[ids], outputs=[], name="ngram", opset=17, ir_version=8)
    rewriter = Rewriter(graph)
    nodes: list[gs.Node] = []
    columns: dict[str, gs.Tensor] = {}
    for at in range(order):
        place = rewriter.shared("ids.place", np.array(order - 1 - at, np.int64))
        out = rewriter.variable(f"ids.{CHAIN[at]}")
        nodes.append(rewriter.node("Gather", [ids, place], [out], axis=1))
        columns[CHAIN[at]] = out
    writer = Writer(rewriter, columns, "ngram", bits_for([language.model]))
    log_p = writer.model(language.model, "words")
    log_p.name, log_p.dtype, log_p.shape = "log_p", np.float32, ["batch"]
    graph.nodes = [*nodes, *writer.nodes]
    graph.outputs = [log_p]
    graph.import_domains = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 2)]
    metadata = (("onnxprune.words", json.dumps(language.words, ensure_ascii=False)),)
    return Model(graph=graph, fields=FileFields(metadata=metadata, input_order=("ids",)))


def words_of(model: Model) -> tuple[str, ...]:
    """The words that a built model knows, by id.

    Raises:
        DataError: the file does not hold them.
    """
    try:
        held: Any = json.loads(model.metadata[WORDS])
    except (KeyError, ValueError):
        held = None
    if not isinstance(held, list) or not all(isinstance(word, str) for word in held):
        raise DataError(f"The model's metadata must hold its words as {WORDS!r}. Build it with onnxprune.build_ngram.")
    return tuple(held)
