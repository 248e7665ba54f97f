"""Few bits and many zeros on graphs of every kind: operators that read weights whole, fused ones, shared weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import spec
from onnxprune.model import load, save
from onnxprune.passes import known
from onnxprune.sites import find_sites
from tests import graphs
from tests.graphs import info, node
from tests.quantizing.test_stages import context

TEXTS = (
    "sparsity=0.5,bits=4,embeddings=4",
    "sparsity=2:4,score=wanda,linears=stored",
    "bits=3,linears=weight-only,block=16,embeddings=4,allocation=uniform",
)


def attention_of_opset_23() -> onnx.ModelProto:
    names = ("q", "k", "v")
    nodes = [node("MatMul", ["x", f"w{name}"], [name]) for name in names]
    nodes.append(node("Attention", [*names], ["a"], q_num_heads=4, kv_num_heads=4))
    nodes.append(node("Gemm", ["flat", "wo"], ["z"], transB=1))
    nodes.insert(4, node("Reshape", ["a", "shape"], ["flat"]))
    return graphs.model(
        nodes,
        [info("x", ("batch", 5, 64))],
        [info("z", ("rows", 64))],
        {f"w{name}": graphs.weights(64, 64, seed=at) for at, name in enumerate((*names, "o"))}
        | {"shape": np.array([-1, 64])},
        opset=23,
        ir=10,
    )


def goes_through(path: Path, folder: Path, text: str) -> tuple[list[str], float]:
    """What was done, and the first output's error as a share of its norm; both optimization levels load it."""
    model, one = load(path), spec.parse(f"sparse-int8:{text}", known())
    feeds = [graphs.feeds_for(path, seed=seed) for seed in range(4)]
    edits = one.propose(model, find_sites(model), context(feeds)).edits
    result, changes = one.apply(model, edits)
    save(result, folder / "result.onnx")
    onnx.checker.check_model(str(folder / "result.onnx"), full_check=False)
    errors = []
    for optimized in (True, False):
        wanted = next(iter(graphs.outputs_of(path, feeds[0], optimized=optimized).values())).astype(np.float64)
        got = next(iter(graphs.outputs_of(folder / "result.onnx", feeds[0], optimized=optimized).values()))
        assert got.shape == wanted.shape
        errors.append(float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)))
    return [change.what for change in changes], max(errors)


@pytest.mark.parametrize("text", TEXTS)
def test_an_attention_operator_of_opset_23_keeps_its_products(tmp_path: Path, text: str) -> None:
    done, error = goes_through(graphs.saved(attention_of_opset_23(), tmp_path), tmp_path, text)
    assert len(done) == 4
    assert 0 < error < 0.8


def test_graphs_that_the_runtimes_optimizer_fused_go_through(tmp_path: Path) -> None:
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(str(graphs.bert(tmp_path)), model_type="bert", num_heads=4, hidden_size=32)
    path = tmp_path / "fused.onnx"
    fused.save_model_to_file(str(path))
    for text in TEXTS:
        done, error = goes_through(path, tmp_path, text)
        assert done
        assert 0 < error < 0.8


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "proto",
    [
        graphs.reused(),
        graphs.tied_embedding(),
        graphs.transposed_convolution(),
        graphs.transposed_convolution(group=4),
        graphs.convolution(group=16),
        graphs.matmul(dtype=np.float16),
        graphs.gemm(np.float16, transB=1, alpha=0.5, beta=2.0),
        graphs.recurrent("GRU"),
    ],
    ids=["shared", "tied", "upwards", "grouped upwards", "depthwise", "half", "half gemm", "recurrent"],
)
def test_shared_transposed_grouped_and_half_precision_weights_go_through(
    tmp_path: Path, proto: onnx.ModelProto, text: str
) -> None:
    done, error = goes_through(graphs.saved(proto, tmp_path), tmp_path, text)
    assert done
    assert 0 < error < 1
