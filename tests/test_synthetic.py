"""Inputs made up from a signature run, stay inside the model's tables, and are the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.bounds import input_uses
from onnxprune.errors import ModelError, OnnxPruneError, OptionError
from onnxprune.model import Model, load
from onnxprune.runtime import Session, open_session
from onnxprune.synthetic import parse_shapes, probes, shaped, synthesise

FLOAT, INT64, INT32, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
Loaded = tuple[Model, Session]
Build = Callable[..., Loaded]
node = helper.make_node


def value(name: str, kind: int, shape: Sequence[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture(name="build")
def _build(tmp_path: Path) -> Build:
    def build(
        nodes: list[onnx.NodeProto],
        inputs: list[onnx.ValueInfoProto],
        output: str,
        constants: dict[str, Any],
        kind: int = FLOAT,
    ) -> Loaded:
        graph = helper.make_graph(
            nodes,
            "g",
            inputs,
            [value(output, kind, None)],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        path = tmp_path / "made.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return load(path), open_session(path)

    return build


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def gpt(build: Build, positions: int, *, names: Sequence[Any] = ("batch", "sequence")) -> Loaded:
    """Token and position embeddings of 50 and `positions` rows; the positions are sliced to the sequence's length."""
    return build(
        [
            node("Gather", ["table", "ids"], ["tokens"]),
            node("Shape", ["ids"], ["shape"], start=1),
            node("Squeeze", ["shape"], ["length"]),
            node("Range", ["zero", "length", "one"], ["range"]),
            node("Gather", ["places", "range"], ["positions"]),
            node("Add", ["tokens", "positions"], ["y"]),
        ],
        [value("ids", INT64, names)],
        "y",
        {"table": zeros(50, 8), "places": zeros(positions, 8), "zero": np.int64(0), "one": np.int64(1)},
    )


def test_ids_lie_in_the_vocabulary_and_sequences_in_the_table_of_positions(build: Build) -> None:
    model, session = gpt(build, 64)
    samples = synthesise(model, session)
    ids = np.concatenate([feeds["ids"] for feeds in samples.feeds])
    assert samples.synthetic
    assert samples.source == "synthetic inputs"
    assert samples.labels is None
    assert ids.shape == (8, 64)
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    # 512 draws of 50 ids: the chance to miss one id is 50·(49/50)^512 = 0.0016, and the seed is fixed.
    assert len(np.unique(ids)) == 50


def test_a_sequence_is_128_long_where_nothing_limits_it(build: Build) -> None:
    model, session = gpt(build, 512)
    assert synthesise(model, session, count=1).feeds[0]["ids"].shape == (1, 128)


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(build: Build) -> None:
    model, session = gpt(build, 64)
    one, same, other = (synthesise(model, session, count=3, seed=seed).feeds for seed in (5, 5, 6))
    for left, right, third in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(left["ids"], right["ids"])
        assert not np.array_equal(left["ids"], third["ids"])
    # More samples are the same ones and further ones.
    np.testing.assert_array_equal(synthesise(model, session, count=9, seed=5).feeds[2]["ids"], one[2]["ids"])


# Each moves values on the way to a table of 10 rows: nodes from `x` to `i`, constants, and the ids that fit.
WAYS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], tuple[int, int]]] = {
    "cast": ([node("Cast", ["x"], ["a"], to=INT32), node("Identity", ["a"], ["i"])], {}, (0, 10)),
    "reshape": ([node("Reshape", ["x", "s"], ["i"])], {"s": np.array([-1])}, (0, 10)),
    "squeezed": (
        [node("Unsqueeze", ["x", "s"], ["a"]), node("Squeeze", ["a", "s"], ["b"]), node("Flatten", ["b"], ["i"])],
        {"s": np.array([0])},
        (0, 10),
    ),
    "sliced": (
        [node("Slice", ["x", "l", "h", "l"], ["a"]), node("Transpose", ["a"], ["i"], perm=[1, 0])],
        {"l": np.array([1]), "h": np.array([9])},
        (0, 10),
    ),
    "joined": (
        [node("Concat", ["x", "x"], ["a"], axis=1), node("Expand", ["a", "s"], ["i"])],
        {"s": np.array([1, 1])},
        (0, 10),
    ),
    "guarded": (
        [
            node("Equal", ["x", "m"], ["a"]),
            node("Where", ["a", "z", "x"], ["b"]),
            node("Clip", ["b", "z", "h"], ["i"]),
        ],
        {"m": np.int64(-100), "z": np.int64(0), "h": np.int64(99)},
        (0, 10),
    ),
    "added": ([node("Add", ["k", "x"], ["i"])], {"k": np.array([[3]])}, (0, 7)),
    "subtracted": ([node("Sub", ["x", "k"], ["i"])], {"k": np.array([[2]])}, (2, 12)),
}


@pytest.mark.parametrize("way", WAYS)
def test_ids_are_followed_to_their_table(build: Build, way: str) -> None:
    nodes, constants, bounds = WAYS[way]
    model, session = build(
        [*nodes, node("Gather", ["table", "i"], ["y"])],
        [value("x", INT64, ["batch", "sequence"])],
        "y",
        constants | {"table": zeros(10, 4)},
    )
    assert input_uses(model.graph).bounds == {"x": bounds}
    for feeds in synthesise(model, session, count=20).feeds:
        assert bounds[0] <= feeds["x"].min() <= feeds["x"].max() < bounds[1]
        session.run(feeds)


@pytest.mark.parametrize("wide_first", [True, False])
def test_the_smallest_table_bounds_an_input_that_two_tables_read(build: Build, wide_first: bool) -> None:
    lookups = [node("Gather", ["wide", "x"], ["a"]), node("Gather", ["turned", "x"], ["b"])]
    model, _ = build(
        [
            node("Transpose", ["narrow"], ["turned"], perm=[1, 0]),
            *lookups[:: 1 if wide_first else -1],
            node("Add", ["a", "b"], ["y"]),
        ],
        [value("x", INT64, ["batch", "sequence"])],
        "y",
        {"wide": zeros(30, 4), "narrow": zeros(4, 20)},
    )
    assert input_uses(model.graph).bounds == {"x": (0, 20)}


def test_a_table_of_int8_rows_is_a_table(build: Build) -> None:
    model, _ = build(
        [
            node("DequantizeLinear", ["stored", "scale"], ["table"]),
            node("Reshape", ["table", "shape"], ["whole"]),
            node("Gather", ["whole", "x"], ["y"]),
        ],
        [value("x", INT64, ["batch"])],
        "y",
        {"stored": np.zeros((20, 8), np.int8), "scale": np.float32(1), "shape": np.array([40, 4])},
    )
    assert input_uses(model.graph).bounds == {"x": (0, 40)}


def test_one_hot_depths_and_elements_bound_ids(build: Build) -> None:
    model, _ = build(
        [
            node("OneHot", ["x", "depth", "values"], ["a"]),
            node("Unsqueeze", ["z", "last"], ["zz"]),
            node("Equal", ["zz", "counted"], ["b"]),
            node("Cast", ["b"], ["c"], to=FLOAT),
            node("GatherElements", ["table", "w"], ["d"]),
            node("ReduceSum", ["a"], ["e"]),
            node("ReduceSum", ["c"], ["f"]),
            node("ReduceSum", ["d"], ["g"]),
            node("Sum", ["e", "f", "g"], ["y"]),
        ],
        [value(name, INT64, ["batch", 1]) for name in ("x", "z", "w")],
        "y",
        {
            "depth": np.int64(7),
            "values": np.array([0, 1], np.float32),
            "counted": np.arange(9).reshape(1, 1, 9),
            "table": zeros(5, 1),
            "last": np.array([2]),
        },
    )
    assert input_uses(model.graph).bounds == {"x": (0, 7), "z": (0, 9), "w": (0, 5)}


def test_a_fused_embedding_bounds_ids_and_segments(build: Build) -> None:
    fused = node(
        "EmbedLayerNormalization",
        ["ids", "segments", "words", "places", "kinds", "gain", "bias"],
        ["y", "mask_index"],
        domain="com.microsoft",
    )
    model, session = build(
        [fused],
        [value(name, INT32, ["batch", "sequence"]) for name in ("ids", "segments")],
        "y",
        {
            "words": zeros(30, 8),
            "places": zeros(16, 8),
            "kinds": zeros(2, 8),
            "gain": np.ones(8, np.float32),
            "bias": zeros(8),
        },
    )
    assert input_uses(model.graph).bounds == {"ids": (0, 30), "segments": (0, 2)}
    # 16 positions
    assert synthesise(model, session, count=1).feeds[0]["ids"].shape == (1, 16)


def masked(build: Build, mask: onnx.ValueInfoProto, ids: Sequence[Any] = ("batch", "sequence")) -> Loaded:
    return build(
        [
            node("Gather", ["table", "ids"], ["tokens"]),
            node("Cast", ["mask"], ["factor"], to=FLOAT),
            node("Unsqueeze", ["factor", "last"], ["wide"]),
            node("Mul", ["tokens", "wide"], ["y"]),
        ],
        [value("ids", INT64, ids), mask],
        "y",
        {"table": zeros(50, 8), "last": np.array([2])},
    )


def test_masks_are_ones_with_a_padded_tail_but_for_the_first_sample(build: Build) -> None:
    model, session = masked(build, value("mask", INT64, ["batch", "sequence"]))
    masks = [feeds["mask"][0] for feeds in synthesise(model, session).feeds]
    assert masks[0].tolist() == [1] * 128
    for mask in masks[1:]:
        length = int(mask.sum())
        assert 64 <= length <= 128
        assert mask.tolist() == [1] * length + [0] * (128 - length)
    assert len({int(mask.sum()) for mask in masks}) > 3


def test_a_boolean_input_is_true(build: Build) -> None:
    model, session = masked(build, value("mask", BOOL, ["batch", "sequence"]))
    feeds = synthesise(model, session).feeds[3]
    assert feeds["mask"].dtype == np.bool_
    assert feeds["mask"].all()


def voice(build: Build) -> Loaded:
    """A recurrent layer whose weights lie in the branches of an If on the sample rate, which must be a known one."""

    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            node("Reshape", ["sound", "frames"], [f"{name}.frames"]),
            node(
                "GRU", [f"{name}.frames", f"{name}.w", f"{name}.r", "", "", "state"], ["", f"{name}.y"], hidden_size=4
            ),
        ]
        weights = {f"{name}.w": np.ones((1, 12, 16), np.float32), f"{name}.r": zeros(1, 12, 4)}
        stored = [numpy_helper.from_array(array, key) for key, array in weights.items()]
        return helper.make_graph(nodes, name, [], [value(f"{name}.y", FLOAT, None)], stored)

    return build(
        [
            node("Equal", ["sr", "known"], ["is_known"]),
            node("Cast", ["is_known"], ["rows"], to=INT64),
            # A rate that is not known reads beyond a table of one row.
            node("Sub", ["one", "rows"], ["row"]),
            node("Gather", ["table", "row"], ["checked"]),
            node("If", ["is_known"], ["new"], then_branch=branch("then"), else_branch=branch("else")),
            node("Add", ["new", "checked"], ["y"]),
        ],
        [value("sound", FLOAT, [None, None]), value("state", FLOAT, [1, None, 4]), value("sr", INT64, [])],
        "y",
        {"known": np.int64(8000), "one": np.int64(1), "table": zeros(1), "frames": np.array([-1, 1, 16])},
    )


def test_a_scalar_rate_is_found_by_trying_and_states_are_zeros(build: Build) -> None:
    model, session = voice(build)
    feeds = synthesise(model, session).feeds[1]
    assert feeds["sr"].shape == ()
    assert feeds["sr"] == 8000
    # Streams are fed in chunks of 512 samples.
    assert feeds["sound"].shape == (1, 512)
    assert feeds["sound"].std() > 0.5
    assert feeds["state"].tolist() == [[[0, 0, 0, 0]]]


def test_a_state_is_found_by_what_it_starts_even_in_the_body_of_an_if(build: Build) -> None:
    model, _ = voice(build)
    assert input_uses(model.graph).states == {"state"}


def convnet(build: Build, stride: int, shape: Sequence[Any] = ("n", 3, "h", "w")) -> Loaded:
    """Adds what is downsampled by `stride` and upsampled again, so that both sizes must be multiples of it."""
    return build(
        [
            node("AveragePool", ["image"], ["small"], kernel_shape=[stride, stride], strides=[stride, stride]),
            node("Resize", ["small", "", "scales"], ["large"]),
            node("Add", ["image", "large"], ["y"]),
        ],
        [value("image", FLOAT, shape)],
        "y",
        {"scales": np.array([1, 1, stride, stride], np.float32)},
    )


def test_an_image_is_uniform_in_0_to_1_and_224_wide(build: Build) -> None:
    model, session = convnet(build, 32)
    image = synthesise(model, session).feeds[0]["image"]
    assert image.shape == (1, 3, 224, 224)
    assert 0 <= image.min() < 0.01
    assert 0.99 < image.max() < 1


def test_other_floats_are_standard_normal(build: Build) -> None:
    model, session = build([node("Relu", ["x"], ["y"])], [value("x", FLOAT, ["batch", 40, "time"])], "y", {})
    x = synthesise(model, session).feeds[0]["x"]
    assert x.shape == (1, 40, 16000)
    # 640000 draws: both are within 6 standard errors.
    assert abs(x.mean()) < 0.008
    assert abs(x.std() - 1) < 0.006


def test_every_role_has_its_values(build: Build) -> None:
    kinds: dict[str, tuple[int, list[Any]]] = {
        "position_ids": (INT64, ["batch", "sequence"]),
        "lengths": (INT64, ["batch"]),
        "pixels": (TensorProto.UINT8, ["batch", "h", "w", 3]),
        "count": (INT64, [1]),
        "sample_rate": (FLOAT, []),
        "words": (TensorProto.STRING, ["batch"]),
        "unknown": (INT64, ["batch", "sequence"]),
    }
    casts = [node("Cast", [name], [f"{name}.y"], to=FLOAT) for name in kinds if name not in {"position_ids", "words"}]
    sums = [node("ReduceSum", [f"{name}.y"], [f"{name}.s"], keepdims=0) for name in kinds if name != "words"]
    model, session = build(
        [
            *casts,
            node("Gather", ["table", "position_ids"], ["position_ids.y"]),
            *sums,
            node("Shape", ["words"], ["words.shape"]),
            node("Cast", ["words.shape"], ["words.s"], to=FLOAT),
            node("Sum", [f"{name}.s" for name in kinds], ["y"]),
        ],
        [value(name, kind, shape) for name, (kind, shape) in kinds.items()],
        "y",
        {"table": zeros(50, 4)},
    )
    feeds = synthesise(model, session).feeds[0]
    assert feeds["position_ids"].tolist() == [[*range(50), *range(50), *range(28)]]
    assert feeds["lengths"].tolist() == [128]
    assert feeds["pixels"].shape == (1, 224, 224, 3)
    assert (feeds["pixels"].min(), feeds["pixels"].max()) == (0, 255)
    assert feeds["count"].tolist() == [1]
    assert feeds["sample_rate"] == 16000
    assert feeds["words"].tolist() == ["text"]
    assert feeds["unknown"].tolist() == [[1] * 128]
    for probe in probes(model, session, feeds):
        # A length is never more than what it is the length of.
        batch, sequence = probe["position_ids"].shape
        assert probe["lengths"].tolist() == [sequence] * batch


def test_ids_are_followed_into_the_body_of_a_loop(build: Build) -> None:
    body = helper.make_graph(
        [
            node("Gather", ["table", "inner"], ["row"]),
            node("Identity", ["go"], ["going"]),
            node("Identity", ["inner"], ["kept"]),
        ],
        "body",
        [value("step", INT64, []), value("go", BOOL, []), value("inner", INT64, None)],
        [value("going", BOOL, []), value("kept", INT64, None), value("row", FLOAT, None)],
    )
    model, session = build(
        [
            node("Loop", ["times", "", "ids"], ["out", "rows"], body=body),
            node("Gather", ["short", "out"], ["tokens"]),
            node("ReduceMax", ["rows"], ["most"], keepdims=0),
            node("Add", ["tokens", "most"], ["y"]),
        ],
        [value("ids", INT64, ["batch"])],
        "y",
        {"table": zeros(30, 4), "short": zeros(20, 4), "times": np.int64(2)},
    )
    assert input_uses(model.graph).bounds == {"ids": (0, 20)}
    assert synthesise(model, session).feeds[0]["ids"].shape == (1,)


def test_an_input_of_a_type_without_arrays_is_told(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [node("Identity", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.BFLOAT16, [1])],
        [value("y", TensorProto.BFLOAT16, [1])],
    )
    path = tmp_path / "made.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError) as caught:
        synthesise(load(path), open_session(path))
    assert str(caught.value) == "made.onnx: input 'x' is of a type that arrays do not have. Export float32."


def test_cached_keys_are_empty_and_sums_of_symbols_follow(build: Build) -> None:
    model, session = build(
        [
            node("Gather", ["table", "ids"], ["tokens"]),
            node("Concat", ["past.0.key", "tokens"], ["keys"], axis=1),
            node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
            node("Unsqueeze", ["mask", "last"], ["wide"]),
            node("Mul", ["keys", "wide"], ["y"]),
        ],
        [
            value("ids", INT64, ["batch", "sequence"]),
            value("attention_mask", INT64, ["batch", "past_length + sequence"]),
            value("past.0.key", FLOAT, ["batch", "past_length", 8]),
        ],
        "y",
        {"table": zeros(50, 8), "last": np.array([2])},
    )
    feeds = synthesise(model, session).feeds[0]
    assert feeds["past.0.key"].shape == (1, 0, 8)
    assert feeds["attention_mask"].shape == (1, 128)
    for probe in probes(model, session, feeds):
        past, now = probe["past.0.key"].shape[1], probe["ids"].shape[1]
        assert past > 1
        assert probe["attention_mask"].shape[1] == past + now


def test_probes_of_a_cache_that_must_be_empty_vary_the_rest(build: Build) -> None:
    model, session = build(
        [
            node("Gather", ["table", "ids"], ["tokens"]),
            # Fails unless the cache adds nothing to the length.
            node("Concat", ["past", "tokens"], ["keys"], axis=1),
            node("Add", ["keys", "tokens"], ["y"]),
        ],
        [value("ids", INT64, ["batch", "sequence"]), value("past", FLOAT, ["batch", "past_length", 8])],
        "y",
        {"table": zeros(50, 8)},
    )
    first, second = probes(model, session)
    assert first["past"].shape[1:] == second["past"].shape[1:] == (0, 8)
    assert len({*first["ids"].shape, *second["ids"].shape}) == 4


def test_caches_of_many_layers_get_one_length(build: Build) -> None:
    names = [f"past.{layer}" for layer in range(120)]
    model, session = build(
        [node("Sum", names, ["y"])], [value(name, FLOAT, [None, 2, None, 4]) for name in names], "y", {}
    )
    first, second = probes(model, session)
    assert {array.shape for array in first.values()} == {(2, 2, 5, 4)}
    assert {array.shape for array in second.values()} == {(3, 2, 7, 4)}


def test_axes_with_names_of_their_own_get_one_size_where_they_must(build: Build) -> None:
    """TorchScript's exporter names each input's axes apart where it is given a list of them."""
    model, session = masked(build, value("mask", INT64, ["m0", "m1"]), ("i0", "i1"))
    feeds = synthesise(model, session).feeds[0]
    assert {array.shape for array in feeds.values()} == {(1, 128)}
    first, second = probes(model, session, feeds)
    assert first["ids"].shape == first["mask"].shape
    assert second["ids"].shape == second["mask"].shape
    assert len({*first["ids"].shape, *second["ids"].shape}) == 4
    assert shaped(model, session, {"ids": (2, 5)}, feeds)["mask"].shape == (2, 5)


def test_axes_that_are_all_named_alike_by_a_question_mark_are_axes_of_their_own(build: Build) -> None:
    model, session = convnet(build, 8, ["?", 3, "?", "?"])
    feeds = synthesise(model, session).feeds[0]
    assert feeds["image"].shape == (1, 3, 224, 224)
    for probe in probes(model, session, feeds):
        batch, _, height, width = probe["image"].shape
        assert len({batch, height, width}) == 3


def sizes(feeds: tuple[Any, ...], name: str) -> list[int]:
    return [size for one in feeds for size in one[name].shape]


def test_probes_differ_in_every_dynamic_axis_and_share_no_factor(build: Build) -> None:
    # The weights' sizes are 8, 50 and 64, so 3 and 7 are free for batches.
    model, session = gpt(build, 64)
    found = sizes(probes(model, session), "ids")
    assert found == [3, 11, 7, 13]
    for one in found:
        assert all(gcd(one, weight) == 1 for weight in (8, 50, 64))


def test_probes_have_the_values_of_a_sample(build: Build) -> None:
    model, session = masked(build, value("mask", INT64, ["batch", "sequence"]))
    like = {"ids": np.arange(5, 14)[None], "mask": np.array([[1, 1, 1, 1, 1, 1, 1, 0, 0]])}
    first, second = probes(model, session, like)
    for probe in (first, second):
        assert set(np.unique(probe["ids"])) <= set(range(5, 14))
        # Cut, or repeated to the new length, and the same in every row
        expected = like["mask"][0, np.arange(probe["mask"].shape[1]) % 9]
        assert (probe["mask"] == expected).all()
    assert not np.array_equal(first["ids"][0], first["ids"][1])
    np.testing.assert_array_equal(first["ids"][0], np.arange(5, 14)[np.arange(first["ids"].shape[1]) % 9])


@pytest.mark.parametrize("stride", [8, 32])
def test_probes_are_multiples_of_the_strides_where_the_graph_wants_that(build: Build, stride: int) -> None:
    model, session = convnet(build, stride)
    first, second = (probe["image"].shape for probe in probes(model, session))
    # Multiples 3, 5 … of the stride; 3 and 7 of 32 lie apart from 2 and 3 of the batch.
    assert first[0] != second[0]
    for size in (*first[2:], *second[2:]):
        assert size % stride == 0
    assert len({*first[2:], *second[2:]}) == 4


@pytest.mark.parametrize(
    ("shape", "kernel", "own"),
    [(["n", 3, "h", "w"], [32, 32], (1, 3, 224, 224)), (["n", 3, "t"], [320], (1, 3, 16000))],
)
def test_probes_differ_after_strides_have_divided_them(
    build: Build, shape: list[Any], kernel: list[int], own: tuple[int, ...]
) -> None:
    model, session = build(
        [node("MaxPool", ["x"], ["y"], kernel_shape=kernel, strides=kernel, auto_pad="SAME_UPPER")],
        [value("x", FLOAT, shape)],
        "y",
        {},
    )
    like = synthesise(model, session, count=1).feeds[0]
    assert like["x"].shape == own
    pooled = [size for probe in probes(model, session, like) for size in session.run(probe)["y"].shape[2:]]
    assert len(set(pooled)) == len(pooled)
    assert min(pooled) > 1


def test_probes_of_a_graph_without_dynamic_axes_differ_in_values(build: Build) -> None:
    model, session = convnet(build, 8, [1, 3, 16, 16])
    like = synthesise(model, session).feeds[0]
    first, second = probes(model, session, like)
    np.testing.assert_array_equal(first["image"], like["image"])
    assert second["image"].shape == (1, 3, 16, 16)
    assert not np.array_equal(first["image"], second["image"])


def test_probes_keep_a_batch_of_one_where_the_graph_takes_no_other(build: Build) -> None:
    model, session = build(
        [node("Reshape", ["x", "shape"], ["y"])],
        [value("x", FLOAT, ["batch", "time", 8])],
        "y",
        {"shape": np.array([1, -1, 8]), "weight": zeros(1)},
    )
    # The runtime takes any batch here, so let the shape be held by what follows.
    assert [probe["x"].shape[0] for probe in probes(model, session)] == [2, 3]
    model, session = build(
        [node("Reshape", ["x", "shape"], ["r"]), node("Add", ["r", "x"], ["y"]), node("Squeeze", ["x", "zero"], ["z"])],
        [value("x", FLOAT, ["batch", "time", 8])],
        "z",
        {"shape": np.array([1, -1, 8]), "zero": np.array([0])},
    )
    found = probes(model, session)
    assert [probe["x"].shape[0] for probe in found] == [1, 1]
    assert found[0]["x"].shape[1] != found[1]["x"].shape[1]


def test_probes_differ_in_values_where_the_graph_takes_no_other_size(build: Build) -> None:
    # 8 is neither a product of a batch and a time that are drawn, nor a time that is drawn.
    model, session = build(
        [node("Reshape", ["x", "shape"], ["y"])],
        [value("x", FLOAT, ["batch", "time"])],
        "y",
        {"shape": np.array([4, 2])},
    )
    first, second = probes(model, session)
    assert first["x"].shape == second["x"].shape == (1, 8)
    assert not np.array_equal(first["x"], second["x"])


def test_what_does_not_run_is_told_in_one_line(build: Build) -> None:
    model, session = build(
        [node("Reshape", ["x", "shape"], ["y"])],
        [value("x", FLOAT, ["batch", 5])],
        "y",
        {"shape": np.array([7, 7])},
    )
    with pytest.raises(ModelError) as caught:
        synthesise(model, session)
    line = str(caught.value)
    assert line.startswith("made.onnx: no made-up inputs run (")
    assert "Reshape node" in line
    assert line.endswith("). Give samples with --data, or sizes with --shape.")
    assert "\n" not in line
    with pytest.raises(ModelError):
        probes(model, session, {"x": zeros(1, 5)})


def test_sizes_that_are_asked_for_are_made_up_and_followed(build: Build) -> None:
    model, session = masked(build, value("mask", INT64, ["m0", "m1"]), ("i0", "i1"))
    feeds = synthesise(model, session, shapes={"ids": (2, 33)}).feeds[0]
    assert {array.shape for array in feeds.values()} == {(2, 33)}


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("input_ids=1x128", {"input_ids": (1, 128)}),
        ("a=1x3x224x224,b.c=7", {"a": (1, 3, 224, 224), "b.c": (7,)}),
        (["a=1x2", "b=3"], {"a": (1, 2), "b": (3,)}),
        ([], {}),
    ],
)
def test_shapes_read_as_they_are_written(text: str | list[str], shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes(text) == shapes


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("input_ids", "--shape: must read NAME=1x128, got 'input_ids'."),
        ("", "--shape: must read NAME=1x128, got ''."),
        ("ids=1x", "--shape: must read NAME=1x128, got 'ids=1x'."),
        ("ids=1x-2", "--shape: must read NAME=1x128, got 'ids=1x-2'."),
        ("ids=0x2", "--shape: sizes must be 1 … 2147483647, got 'ids=0x2'."),
        ("ids=1,ids=2", "--shape: 'ids' is given twice. Give it once."),
    ],
)
def test_shapes_that_do_not_read_are_told_in_one_line(text: str, line: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_shapes(text)
    assert str(caught.value) == line


def test_a_sample_is_cut_and_repeated_to_the_sizes_that_are_asked_for(build: Build) -> None:
    model, session = masked(build, value("mask", INT64, ["batch", "sequence"]))
    like = {"ids": np.arange(5, 14)[None], "mask": np.ones((1, 9), np.int64)}
    feeds = shaped(model, session, {"ids": (2, 4)}, like)
    assert feeds["ids"][0].tolist() == [5, 6, 7, 8]
    assert feeds["mask"].tolist() == [[1] * 4] * 2
    assert shaped(model, session, {"mask": (1, 20)}, like)["ids"].shape == (1, 20)
    # Nothing is asked for: the sample as it is.
    np.testing.assert_array_equal(shaped(model, session, {}, like)["ids"], like["ids"])


def test_the_other_stream_keeps_its_length_where_it_must(build: Build) -> None:
    model, session = build(
        [node("Gather", ["table", "ids"], ["a"]), node("MatMul", ["memory", "square"], ["b"]),
         node("ReduceMean", ["b"], ["c"], axes=[1], keepdims=1), node("Add", ["a", "c"], ["y"])],
        [value("ids", INT64, ["batch", "to"]), value("memory", FLOAT, ["batch", "from", 8])],
        "y",
        {"table": zeros(50, 8), "square": zeros(8, 8)},
    )  # fmt: skip
    like = synthesise(model, session).feeds[0]
    assert shaped(model, session, {"ids": (1, 5), "memory": (1, 9, 8)}, like)["memory"].shape == (1, 9, 8)
    first, second = probes(model, session, like)
    lengths = [first["ids"].shape[1], first["memory"].shape[1], second["ids"].shape[1], second["memory"].shape[1]]
    assert len(set(lengths)) == 4


@pytest.mark.parametrize(
    ("shapes", "line"),
    [
        ({"id": (1,)}, "--shape: no input named 'id'. The model's inputs: image, size."),
        (
            {"image": (1, 3, 8)},
            "--shape: image float32 [batch, 3, height, width] has 4 axes, got 1x3x8. Give a size for each.",
        ),
        (
            {"image": (1, 4, 8, 8)},
            (
                "--shape: image float32 [batch, 3, height, width] is fixed at 3, got 1x4x8x8. "
                "Change its dynamic axes only."
            ),
        ),
        (
            {"image": (1, 3, 8, 8), "size": (1, 9)},
            "--shape: height is 8 in one place and 9 in size=1x9. Give equal sizes.",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_told_in_one_line(build: Build, shapes: dict[str, Any], line: str) -> None:
    model, session = build(
        [node("Relu", ["image"], ["y"])],
        [value("image", FLOAT, ["batch", 3, "height", "width"]), value("size", FLOAT, ["batch", "height"])],
        "y",
        {},
    )
    with pytest.raises(OnnxPruneError) as caught:
        shaped(model, session, shapes, {"image": zeros(1, 3, 4, 4), "size": zeros(1, 4)})
    assert (type(caught.value), str(caught.value)) == (OptionError, line)


def test_a_shape_that_the_runtime_refuses_is_told_in_one_line(build: Build) -> None:
    model, session = gpt(build, 64)
    with pytest.raises(ModelError) as caught:
        shaped(model, session, {"ids": (1, 65)}, {"ids": np.zeros((1, 3), np.int64)})
    line = str(caught.value)
    assert line.startswith("made.onnx: does not run with --shape ids=1x65 (")
    assert "Attempting to broadcast an axis" in line
    assert line.endswith("). Choose sizes that it takes.")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "fixtures").glob("*/model.onnx")), ids=str)
def test_inputs_of_the_fixtures_are_made_up_and_probed(path: Path) -> None:
    model, session = load(path), open_session(path)
    samples = synthesise(model, session, count=4)
    for feeds in samples.feeds:
        assert all(np.isfinite(array).all() for array in session.run(feeds).values())
    first, second = probes(model, session, samples.feeds[0])
    for port in session.inputs:
        for one, two, size in zip(first[port.name].shape, second[port.name].shape, port.shape, strict=True):
            assert (one == two) == isinstance(size, int)


@pytest.mark.parametrize("added", [-np.inf, np.inf, np.nan])
def test_a_mask_that_is_infinite_is_no_shift_of_an_index(build: Build, added: float) -> None:
    """Causal masks are stored as minus infinity and added to what comes in."""
    mask = np.array([0, added, 0, added], np.float32)
    model, session = build([node("Add", ["x", "mask"], ["y"])], [value("x", FLOAT, ["b", 4])], "y", {"mask": mask})
    assert input_uses(model.graph).bounds == {}
    assert synthesise(model, session).feeds[0]["x"].shape[1] == 4
