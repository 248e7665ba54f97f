"""What few bits and zeros fall back to: eight bits first, decoded at load next, the float weight last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxprune import optimize, spec
from onnxprune.model import load, save
from onnxprune.passes import known
from onnxprune.protocol import Context
from onnxprune.sites import find_sites
from tests import graphs
from tests.quantizing.test_stages import chain, context, correlated


@pytest.mark.parametrize(
    ("text", "given_up"),
    [
        ("sparsity=0.5,bits=4", ["zeros and few bits", "integer products"]),
        ("bits=3,linears=weight-only", ["few bits", "integer products"]),
        ("sparsity=0.5", ["zeros", "integer products"]),
        ("bits=8", ["integer products"]),
        ("bits=4,linears=stored", ["few bits"]),
    ],
)
def test_each_finer_form_gives_up_one_thing_and_loses_less(tmp_path: Path, text: str, given_up: list[str]) -> None:
    path = graphs.saved(graphs.gemm(transB=1), tmp_path)
    model, one, feeds = load(path), spec.parse(f"sparse-int8:{text}", known()), correlated(path, 4)
    (edit,) = one.propose(model, find_sites(model), context(feeds)).edits
    words, lost = [], []
    while edit is not None:
        save(one.apply(model, [edit])[0], tmp_path / "form.onnx")
        (wanted,), (got,) = (graphs.outputs_of(p, feeds[0]).values() for p in (path, tmp_path / "form.onnx"))
        lost.append(float(np.square(got - wanted).sum()))
        found = one.finer(edit, model)
        edit = found[1] if found else None
        words += [found[0]] if found else []
    assert words == given_up
    assert lost == sorted(lost, reverse=True)


def test_tables_of_four_bits_fall_back_to_eight(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.tied_embedding(), tmp_path))
    one = spec.parse("sparse-int8:embeddings=4,bits=4", known())
    (edit,) = one.propose(model, find_sites(model), Context()).edits
    words, finer = one.finer(edit, model)
    assert words == "few bits"
    assert "bits" not in finer.args
    assert np.abs(finer.tensors["weight"]).max() == 127


def test_only_what_sinks_the_fidelity_gets_its_bits_back(tmp_path: Path) -> None:
    """At 3 bits the whole chain is far under the floor; with some products at 8 it is over it."""
    path = graphs.saved(chain(), tmp_path)
    np.savez(tmp_path / "data.npz", x=np.concatenate([feeds["x"] for feeds in correlated(path, 8)]))
    result = optimize(
        path,
        output=tmp_path / "out.onnx",
        data=str(tmp_path / "data.npz"),
        passes=["sparse-int8:bits=3"],
        fidelity=0.98,
    )
    assert result.fidelity.score >= 0.98
    report = result.reports[-1]
    kept = [change.what for change in report.changes]
    assert any("in 3 bits" in what for what in kept)
    assert any("as int8" in what for what in kept)
    assert len(kept) == 3
    softened = [
        skip for skip in report.reverted if " was under the floor 0.98, so its milder form is kept; " in skip.why
    ]
    assert len(softened) == sum("as int8" in what for what in kept)
