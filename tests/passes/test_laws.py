"""What every pass must hold, whatever its options and whatever the graph."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import spec
from onnxprune.calibration import collect
from onnxprune.cosines import mean_cosines
from onnxprune.data import Samples
from onnxprune.decoding import Decoding
from onnxprune.graph import constants, elements, is_weight, numbers, stored_bytes
from onnxprune.inputs import compare_inputs
from onnxprune.learn.sensitivity import Sensitivity
from onnxprune.loss import choose_loss
from onnxprune.model import Model, load, save, to_bytes
from onnxprune.ngrams.editing import table_storage
from onnxprune.packing import unpacked
from onnxprune.passes import OWN, SparseInt8, known
from onnxprune.plan import Change, Edit
from onnxprune.protocol import Context, Pass, Trained
from onnxprune.runtime import Feeds, observe, observe_shapes, open_session
from onnxprune.sites import GRAPH, find_sites
from onnxprune.structure import read_structure
from onnxprune.synthetic import probes
from tests import graphs
from tests.ngrams.making import language, trigram, with_vectorizer

# A new pass adds its line: the specs that are tried on every graph.
SPECS: dict[str, tuple[str, ...]] = {
    "approximate-activations": ("approximate-activations", "approximate-activations:gelu=sigmoid"),
    "cluster": ("cluster", "cluster:centroids=256", "cluster:solver=round,embeddings=no"),
    "factor-embedding": (
        "factor-embedding:ratio=0.4",
        "factor-embedding:rank=8,clusters=1,norms=yes",
        "factor-embedding:energy=0.6,frequency=no",
    ),
    "factor-linear": (
        "factor-linear:ratio=0.5",
        "factor-linear:energy=0.5,method=asvd",
        "factor-linear:rank=8,method=svd",
        "factor-linear:rank=0",
    ),
    "merge-blocks": (
        "merge-blocks:keep=0.5",
        "merge-blocks:threshold=0.0,group=3,interval=2,rule=sum-of-differences",
    ),
    "ngram": (
        "ngram:keep=0.5",
        "ngram:keep=0.4,classes=3",
        "ngram:threshold=1e-3,score=weighted-difference",
        "ngram:keep=0.6,score=count",
    ),
    "pack-weights": ("pack-weights", "pack-weights:saving=0.0"),
    "recover": ("recover", "recover:steps=20,rank=2,objective=cosine,embeddings=yes"),
    "remove-blocks": (
        "remove-blocks:keep=0.5",
        "remove-blocks:keep=0.5,score=cosine,guard=1/1",
        "remove-blocks:keep=0.5,score=magnitude",
        "remove-blocks:keep=0.5,score=taylor",
        "remove-blocks:keep=2,greedy=yes,layers=yes",
    ),
    "remove-channels": ("remove-channels:keep=0.5", "remove-channels:keep=0.5,score=magnitude,refit=no"),
    "remove-dead": ("remove-dead",),
    "remove-heads": ("remove-heads:keep=0.5", "remove-heads:keep=3,score=magnitude", "remove-heads:keep=2,score=wanda"),
    "remove-neurons": (
        "remove-neurons:keep=0.5",
        "remove-neurons:keep=0.5,score=minitron,refit=no",
        "remove-neurons:keep=0.5,scope=global",
        "remove-neurons:keep=0.5,score=output-norm,scope=global",
        "remove-neurons:keep=8,score=random",
        "remove-neurons:keep=0.5,score=taylor-mixed,aggregate=max",
    ),
    "simplify": ("simplify", "simplify:limit=0"),
    "smooth-activations": ("smooth-activations", "smooth-activations:alpha=0.8"),
    "sparse-int8": (
        "sparse-int8",
        "sparse-int8:linears=stored,convs=stored",
        "sparse-int8:convs=static,embeddings=no",
        "sparse-int8:linears=float",
        "sparse-int8:activations=static,ranges=mse,signs=s8s8",
        "sparse-int8:activations=none",
        "sparse-int8:sparsity=0.5,allocation=loss",
        "sparse-int8:sparsity=2:4,bits=4,score=wanda,solver=prune-then-round,sequential=no",
        "sparse-int8:bits=3,linears=stored,convs=stored,embeddings=4",
        "sparse-int8:bits=4,linears=weight-only,block=16,embeddings=4",
    ),
    "streamline": ("streamline", "streamline:rewrites=nan-guards", "streamline:rewrites=fixed-steps"),
}
GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "matmul": graphs.matmul,
    "half": lambda: graphs.matmul(dtype=np.float16),
    "gemm": lambda: graphs.gemm(transB=1, alpha=0.5, beta=2.0),
    "feed-forward": graphs.feed_forward,
    "gelu": graphs.gelu,
    "dead units": graphs.dead_units,
    "attention": graphs.attention,
    "residual": graphs.residual_blocks,
    "layers": graphs.layers,
    "reused": graphs.reused,
    "tied": graphs.tied_embedding,
    "convolution": graphs.convolution,
    "depthwise": lambda: graphs.convolution(group=16),
    "old convolution": lambda: graphs.convolution(opset=11, ir=3),
    "recurrent": lambda: graphs.recurrent("LSTM"),
    "branches": graphs.branches,
    "loop": graphs.loop,
    "overridable": graphs.overridable,
    "compressible": graphs.compressible,
    "n-grams": lambda: with_vectorizer(trigram(language(100).model)),
}
SCALES = re.compile(r"(\.(scale|zero_point|split|whole)|^nibbles(\.row)?)(\.\d+)?$")
# Two numbers to a byte.
PACKED = re.compile(r"\.int4(\.\d+)?$")
CASES = [(text, graph) for texts in SPECS.values() for text in texts for graph in GRAPHS]


@dataclass
class Run:
    """One pass on one new graph."""

    one: Pass
    path: Path
    model: Model
    before: bytes
    probes: tuple[Feeds, ...]
    edits: tuple[Edit, ...]
    result: Model
    changes: tuple[Change, ...]


def context_for(one: Pass, model: Model, feeds: tuple[Feeds, ...]) -> Context:
    structure = None
    if getattr(one, "structural", False):
        structure = read_structure(model, observe_shapes(model, feeds))
    needs = one.needs(model, find_sites(model, structure))
    statistics = collect(model, needs, feeds) if needs.tensors else None
    session = open_session(model)
    loss = choose_loss(model, session, Samples(feeds=feeds, source="probes"), None)
    return Context(
        statistics=statistics,
        structure=structure,
        shapes=observe_shapes(model, feeds) if getattr(one, "observant", False) else None,
        observe=lambda names: observe(model, feeds[0], names),
        compare_inputs=lambda current, original, sources: compare_inputs(current, original, sources, feeds),
        cosines=lambda first, second, pairs: mean_cosines(first, second, pairs, feeds),
        loss=loss,
        gradients=lambda _: Sensitivity(loss, session),
        decoding=Decoding,
        recover=lambda candidate, _: rounded_weights(candidate),
        seed=0,
    )


def rounded_weights(model: Model) -> Trained:
    """A training that needs no torch and has done its work after one run: floats go to multiples of 1/16."""
    found = {t.name: numbers(t) for t in constants(model.graph) if t.name not in model.overridable}
    coarse = {name: (np.round(x * 16) / 16).astype(x.dtype) for name, x in found.items() if x.dtype.kind == "f"}
    weights = {name: x for name, x in coarse.items() if x.ndim > 1 and not np.array_equal(x, found[name])}
    return Trained(weights=weights, steps=20, best_step=10, before=0.5, after=0.75, cpu_seconds=1.0)


def propose_and_apply(
    one: Pass, model: Model, feeds: tuple[Feeds, ...]
) -> tuple[tuple[Edit, ...], Model, tuple[Change, ...]]:
    context = context_for(one, model, feeds)
    edits = one.propose(model, find_sites(model, context.structure), context).edits
    result, changes = one.apply(model, edits) if edits else (model, ())
    return edits, result, changes


@pytest.fixture(params=CASES, ids=[f"{text} on {graph}" for text, graph in CASES], name="run")
def _run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    text, graph = request.param
    path = graphs.saved(GRAPHS[graph](), tmp_path)
    model, one = load(path), spec.parse(text, known())
    before = to_bytes(model)
    feeds = probes(model, open_session(path))
    return Run(one, path, model, before, feeds, *propose_and_apply(one, model, feeds))


def test_every_law_holds(run: Run, tmp_path: Path) -> None:
    """One test a case, since calibration and sessions cost more than the assertions."""
    the_input_is_untouched(run)
    one_change_an_edit_and_known_sites(run)
    the_report_equals_what_is_counted(run)
    path = tmp_path / "result.onnx"
    save(run.result, path)
    the_result_passes_the_checker(run, path)
    the_signature_is_kept(run, path)
    outputs_are_close_and_equal_only_where_nothing_is_lost(run, path)
    a_second_run_changes_nothing(run, path)
    edits_are_data_that_give_the_same_bytes_again(run)


def the_input_is_untouched(run: Run) -> None:
    assert to_bytes(run.model) == run.before


def one_change_an_edit_and_known_sites(run: Run) -> None:
    assert len({edit.id for edit in run.edits}) == len(run.edits)
    assert {edit.pass_name for edit in run.edits} <= {run.one.name}
    # An edit of the whole graph may only prepare others, and has nothing to report then.
    reported = [edit.site for edit in run.edits if edit.site != GRAPH]
    assert [change.site for change in run.changes if change.site != GRAPH] == reported
    known_ids = {edit.id for edit in run.edits}
    assert all(name in known_ids for edit in run.edits for name in edit.depends_on)


def the_report_equals_what_is_counted(run: Run) -> None:
    # Shape tensors are counted or not, as the pass says; weights always are.
    assert sum(c.bytes_before - c.bytes_after for c in run.changes) in {
        stored(run.model, weights=only) - stored(run.result, weights=only) for only in (False, True)
    }
    assert sum(c.params_before - c.params_after for c in run.changes) in {
        counted(run.model, weights=only) - counted(run.result, weights=only) for only in (False, True)
    }


def stored(model: Model, *, weights: bool) -> int:
    held = sum(stored_bytes(tensor) for tensor in constants(model.graph) if is_weight(tensor) or not weights)
    return held + table_storage(model.graph)[1]


def counted(model: Model, *, weights: bool) -> int:
    """Numbers in constants and in tables that nodes hold, scales and zero points aside."""
    return table_storage(model.graph)[0] + sum(
        elements(tensor) * (2 if PACKED.search(tensor.name) else 1)
        for tensor in constants(unpacked(model, lookups=True)[0].graph)
        if (is_weight(tensor) or not weights) and not SCALES.search(tensor.name)
    )


def the_result_passes_the_checker(run: Run, path: Path) -> None:
    onnx.checker.check_model(str(path), full_check=True)
    assert len(run.result.graph.nodes) > 0


def the_signature_is_kept(run: Run, path: Path) -> None:
    before, after = onnx.load(run.path), onnx.load(path)
    # An opset that is raised from before IR 4 frees the initializers from standing among the inputs.
    initializers = {tensor.name for tensor in before.graph.initializer} if before.ir_version < 4 else set()
    assert [v for v in before.graph.input if v.name not in initializers] == [
        v for v in after.graph.input if v.name not in {t.name for t in after.graph.initializer} or before.ir_version > 3
    ]
    assert list(before.graph.output) == list(after.graph.output)
    assert run.result.overridable == run.model.overridable


def outputs_are_close_and_equal_only_where_nothing_is_lost(run: Run, path: Path) -> None:
    changed = False
    for feeds, optimized in itertools.product(run.probes, (True, False)):
        expected = graphs.outputs_of(run.path, dict(feeds), optimized=optimized)
        got = graphs.outputs_of(path, dict(feeds), optimized=optimized)
        for name, value in expected.items():
            assert got[name].shape == value.shape
            assert got[name].dtype == value.dtype
            scale = float(np.abs(value).max())
            error = float(np.abs(got[name].astype(np.float64) - value).max())
            changed |= error > 0
            if run.one.lossless:
                assert error <= 1e-5 * scale
            elif isinstance(run.one, SparseInt8) and run.one.bits == 8 and not run.one.sparsity:
                # Weights and activations each keep 7 bits: about 1/127 a rounding, averaged over 64 terms.
                assert error <= 0.05 * scale
            else:
                assert np.isfinite(got[name]).all()
    if run.edits and not run.one.lossless:
        assert changed


def a_second_run_changes_nothing(run: Run, path: Path) -> None:
    again = load(path)
    before = to_bytes(again)
    _, result, _ = propose_and_apply(run.one, again, run.probes)
    assert to_bytes(result) == before


def edits_are_data_that_give_the_same_bytes_again(run: Run) -> None:
    if run.edits:
        result, changes = run.one.apply(load(run.path), run.edits)
        assert to_bytes(result) == to_bytes(run.result)
        assert changes == run.changes


@pytest.mark.parametrize("text", [text for texts in SPECS.values() for text in texts])
def test_a_spec_round_trips(text: str) -> None:
    one = spec.parse(text, known())
    assert spec.parse(spec.format(one), known()) == one
    assert spec.format(spec.parse(spec.format(one), known())) == spec.format(one)


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.name)
def test_every_pass_finds_something_to_do_on_some_graph(kind: type[Pass], tmp_path: Path) -> None:
    """Laws that hold because nothing happens hold nothing."""
    for number, (text, graph) in enumerate((t, g) for t in SPECS[kind.name] for g in GRAPHS.values()):
        path = graphs.saved(graph(), tmp_path, f"{number}.onnx")
        model = load(path)
        if propose_and_apply(spec.parse(text, known()), model, probes(model, open_session(path)))[0]:
            return
    pytest.fail(f"{kind.name} proposed no edit on any graph")


def test_every_registered_pass_is_in_the_list_of_laws() -> None:
    assert set(SPECS) == {kind.name for kind in OWN}
    assert all(text.partition(":")[0] == name for name, texts in SPECS.items() for text in texts)
