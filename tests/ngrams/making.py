"""N-gram models to test on: a small text, and graphs as others may write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.ngrams.backoff import BackOff, Table
from onnxprune.ngrams.text import Language, from_sentences

Array = np.ndarray[Any, Any]

WORDS = tuple(
    "the a cat dog bird fish sat ran flew swam on in under mat tree house big small red blue and or".split()  # noqa: SIM905
)


def sentences(count: int = 300, seed: int = 0) -> list[list[str]]:
    """Sentences of a random chain in which each word prefers a few followers."""
    random = np.random.default_rng(seed)
    follow = np.random.default_rng(7).dirichlet(np.full(len(WORDS), 0.15), len(WORDS))
    made = []
    for _ in range(count):
        at, words = int(random.integers(len(WORDS))), []
        for _ in range(int(random.integers(3, 12))):
            words.append(WORDS[at])
            at = int(random.choice(len(WORDS), p=follow[at]))
        made.append(words)
    return made


def language(count: int = 300, order: int = 3) -> Language:
    return from_sentences(sentences(count), order=order)


def windows(count: int = 40, order: int = 3, seed: int = 5) -> Array:
    """[n, order] ids of words behind others, the oldest first, of text that the model has not seen."""
    numbers = {word: at for at, word in enumerate(language().words)}
    rows = []
    for sentence in sentences(count, seed):
        ids = [-1] * (order - 2) + [0] + [numbers.get(word, 2) for word in sentence] + [1]
        rows += [ids[at : at + order] for at in range(len(ids) - order + 1)]
    return np.array(rows)


def trigram(
    model: BackOff, *, base: int = 2**20, sentinel: float = 99.0, log10: bool = False, tensors: bool = False,
    linear: bool = False, inputs: str = "ids", unit: float = 1.0,
) -> onnx.ModelProto:  # fmt: skip
    """As METHODS' recipe has it, and in other forms: three inputs or one, logarithms or probabilities."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def const(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(op: str, read: list[str], out: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(op, read, [out], **attrs))
        return out

    if inputs == "ids":
        ports = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 3])]
        u, v, w = (node("Gather", ["ids", const(f"at{i}", np.int64(i))], f"id{i}", axis=1) for i in range(3))
    else:
        ports = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in "uvw"]
        u, v, w = "u", "v", "w"
    b = const("base", np.int64(base))
    uv = node("Add", [node("Mul", [u, b], "u_high"), v], "uv")
    uvw = node("Add", [node("Mul", [uv, b], "uv_high"), w], "uvw")
    vw = node("Add", [node("Mul", [v, b], "v_high"), w], "vw")

    def table(key: str, held: Table, default: float, out: str) -> str:
        keys = np.zeros(len(held), np.int64)
        for column in held.ids.T:
            keys = keys * base + column
        values = np.exp(held.values) if linear else held.values / (np.log(10) if log10 else 1)
        default = default if not log10 or default in {0.0, sentinel} else default / np.log(10)
        if tensors:
            attrs: dict[str, Any] = {
                "keys_tensor": numpy_helper.from_array(keys, "k"),
                "values_tensor": numpy_helper.from_array(values.astype(np.float32), "v"),
                "default_tensor": numpy_helper.from_array(np.array([default], np.float32), "d"),
            }
        else:
            attrs = {
                "keys_int64s": keys.tolist(),
                "values_floats": values.astype(np.float32).tolist(),
                "default_float": float(default),
            }
        return node("LabelEncoder", [key], out, domain="ai.onnx.ml", **attrs)

    unknown = np.exp(model.unknown) if linear else model.unknown
    p3 = table(uvw, model.grams[2], sentinel, "p3")
    p2 = table(vw, model.grams[1], sentinel, "p2")
    p1 = table(w, model.grams[0], unknown, "p1")
    a2 = table(uv, model.alphas[1], 1.0 if linear else 0.0, "a2")
    a1 = table(v, model.alphas[0], 1.0 if linear else 0.0, "a1")
    join = "Mul" if linear else "Add"
    limit = const("limit", np.float32(sentinel / 2))
    op = "Less" if sentinel > 0 else "Greater"
    second = node("Where", [node(op, [p2, limit], "has2"), p2, node(join, [a1, p1], "b1")], "l2")
    third = node("Where", [node(op, [p3, limit], "has3"), p3, node(join, [a2, second], "b2")], "l3")
    if unit != 1:
        third = node("Mul", [third, const("unit", np.float32(unit))], "scaled")
    out = helper.make_tensor_value_info(third, TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "trigram", ports, [out], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 4 if tensors else 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def with_vectorizer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with input `ids` that also counts some of its n-grams, normalises the counts and multiplies them."""
    random = np.random.default_rng(1)
    singles, pairs = range(3, 15), [(3, 4), (5, 9), (4, 7), (9, 3), (10, 11)]
    counted = helper.make_node(
        "TfIdfVectorizer", ["ids"], ["counts"], mode="TFIDF", min_gram_length=1, max_gram_length=2, max_skip_count=0,
        ngram_counts=[0, len(singles)], ngram_indexes=[*range(16, 4, -1), *range(5)],
        pool_int64s=[*singles, *(one for pair in pairs for one in pair)],
        weights=random.uniform(0.5, 2, 17).astype(np.float32).tolist(),
    )  # fmt: skip
    model.graph.node.extend(
        [
            counted,
            helper.make_node("Mul", ["counts", "idf"], ["weighed"]),
            helper.make_node("Normalizer", ["weighed"], ["normal"], domain="ai.onnx.ml", norm="L2"),
            helper.make_node("MatMul", ["normal", "classifier"], ["scores"]),
        ]
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(random.uniform(1, 3, 17).astype(np.float32), "idf"),
            numpy_helper.from_array(random.normal(size=(17, 4)).astype(np.float32), "classifier"),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4]))
    return model
