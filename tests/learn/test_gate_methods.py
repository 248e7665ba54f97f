"""Methods on gates, and those that cut and distil: counts and sizes are met, what is written is what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxprune import train
from onnxprune.data import load_samples
from onnxprune.errors import DataError, OptionError
from onnxprune.graph import constants, numbers
from onnxprune.learn.factored import factored, filling
from onnxprune.learn.gated import show
from onnxprune.learn.method import Method
from onnxprune.learn.methods.flop import Flop
from onnxprune.learn.methods.peer_distillation import PeerDistillation
from onnxprune.learn.methods.ziplm import ZipLM
from onnxprune.learn.module import write_back
from onnxprune.learn.peers import PeerTraining
from onnxprune.learn.trainee import Trainee, trainee_of
from onnxprune.loss import choose_loss
from onnxprune.model import Model, load
from onnxprune.pipeline import optimize
from onnxprune.runtime import open_session
from onnxprune.synthetic import probes
from onnxprune.training import Trained, settings_of
from tests import graphs
from tests.search.working import WorkTarget

Array = np.ndarray[Any, Any]
# Two layers of four heads and 96 neurons.
HEADS, NEURONS = 4, 96
QUICK = {"steps": "20", "batch": "16", "check": "5", "lr": "0.001"}


@pytest.fixture(name="place", autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    graphs.saved(graphs.layers(2), tmp_path)
    x = np.random.default_rng(0).standard_normal((64, 1, 6, graphs.WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def trained(place: Path, method: str, *options: str, **rest: Any) -> Trained:
    given = QUICK | dict(option.split("=") for option in options)
    return train(
        place / "model.onnx", method, data=str(place / "data.npz"), output=place / "out.onnx",
        options=[f"{name}={value}" for name, value in given.items()], **rest,
    )  # fmt: skip


def trainee(place: Path, method: Method, name: str = "model.onnx") -> Trainee:
    model = load(place / name)
    session = open_session(model)
    samples = load_samples(str(place / "data.npz"), session.inputs)
    loss = choose_loss(model, session, samples, None)
    return trainee_of(method.training, model, loss, samples, probes(model, session, samples.feeds[0]))


def stored(path: Path | Model) -> dict[str, Array]:
    model = path if isinstance(path, Model) else load(path)
    return {tensor.name: np.array(numbers(tensor)) for tensor in constants(model.graph)}


def outputs(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(value) for name, value in open_session(model).run(feeds).items()}


def test_a_number_of_heads_is_met_and_the_closed_ones_can_be_cut_exactly(place: Path) -> None:
    result = trained(place, "head-gates", "keep=5", "gate_lr=0.2")
    kept = result.details["kept"]
    assert sum(map(len, kept.values())) == 5
    assert result.best_step > 14, "what is kept was trained with decided gates"
    cut = optimize(place / "out.onnx", data=str(place / "data.npz"), passes=["remove-dead"], output=place / "cut.onnx")
    whole, less = load(place / "out.onnx"), load(place / "cut.onnx")
    # A head has 16 columns of q, k, v with biases and 16 rows of o: 3 * (64 + 1) * 16 + 16 * 64 = 4144 numbers.
    counts = [sum(x.size for x in stored(each).values() if x.dtype.kind == "f") for each in (whole, less)]
    assert counts[0] - counts[1] == 3 * 4144
    assert cut.fidelity.score > 1 - 1e-6
    x = np.random.default_rng(1).standard_normal((2, 7, graphs.WIDTH)).astype(np.float32)
    wanted, got = (outputs(each, {"x": x})["y"] for each in (whole, less))
    assert np.abs(wanted - got).max() <= 1e-5 * np.abs(wanted).max()


def test_a_higher_price_leaves_fewer_heads_and_gates_stand_at_either_end(place: Path) -> None:
    found = [
        trained(place, "head-gates", f"price={price}", "gate_lr=0.3", "steps=40", "decide=0.9").details
        for price in (0.0, 5.0)
    ]
    free, dear = (sum(map(len, one["kept"].values())) for one in found)
    assert dear < free
    assert found[1]["polarised"] >= 0.75


def test_pairs_meet_their_size_and_the_file_holds_no_more(place: Path) -> None:
    result = trained(place, "flop", "keep=0.4")
    share, ranks = result.details["share"], result.details["ranks"]
    assert 0.38 <= share <= 0.4
    held = stored(place / "out.onnx")
    factors = sum(x.size for name, x in held.items() if name.endswith((".left", ".right")))
    assert factors == pytest.approx(share * result.details["numbers"])
    # 2 * (4 * 64 * 64 + 2 * 64 * 96) + 64 * 64 numbers in 13 linears.
    assert result.details["numbers"] == 2 * (4 * 4096 + 2 * 6144) + 4096
    assert len(ranks) == 13
    assert result.details["trace"][-1]["price"] != 0


def gated_and_written(place: Path, method: Flop, values: str) -> tuple[float, Model, Trainee]:
    """(how far the written model is from the gated one, relative; it; the trainee)."""
    one = trainee(place, method)
    form = factored(one, tables=method.tables, sites=method.sites, method="flop")
    one.work_on(form.form)
    generator = np.random.default_rng(3)
    drawn = [generator.uniform(0.1, 1, each.gated.units) for each in form.components]
    if values == "some closed":
        drawn = [value * (generator.uniform(size=len(value)) < 0.4) for value in drawn]
    if values == "one all closed":
        drawn[1][:] = 0
    least = [value.copy() for value in drawn]
    for value, component in zip(least, form.components, strict=True):
        if component.least and not value.any():
            value[0] = 0.5
    show(one.module, [each.gated for each in form.components], least)
    feeds = one.probes[0]
    with torch.no_grad():
        mine = {name: value.numpy() for name, value in one.module(feeds).items()}
    written = form.result(write_back(form.form, one.module), least)
    got = outputs(written, feeds)
    return max(float(np.abs(mine[name] - got[name]).max() / np.abs(got[name]).max()) for name in got), written, one


@pytest.mark.parametrize("values", ["open", "some closed", "one all closed"])
def test_the_written_pairs_compute_what_the_gated_ones_do(place: Path, values: str) -> None:
    far, written, _ = gated_and_written(place, Flop(), values)
    assert far <= 1e-5
    names = set(stored(written))
    second = "0.attention.k.weight"
    assert (f"{second}.left" in names) == (values != "one all closed")
    assert second not in names


def test_gates_start_in_the_order_of_singular_values(place: Path) -> None:
    form = factored(trainee(place, Flop()), tables=False, sites=("linear.0",), method="flop")
    (one,) = form.components
    weight = stored(place / "model.onnx")["0.attention.q.weight"]
    assert one.sizes == pytest.approx(np.linalg.svd(weight, compute_uv=False)[: one.gated.units], rel=1e-4)
    assert (np.diff(one.order()) <= 1e-6).all()
    assert np.abs(one.order()).max() <= 1


def tokens(place: Path) -> None:
    """A lookup with a head tied to its table, and samples in which low numbers are frequent."""
    generator = np.random.default_rng(0)
    table = generator.standard_normal((200, 32)).astype(np.float32)
    nodes = [
        graphs.node("Gather", ["table", "ids"], ["rows"]),
        graphs.node("MatMul", ["rows", "w"], ["product"]),
        graphs.node("Tanh", ["product"], ["hidden"]),
        graphs.node("Transpose", ["table"], ["head"], perm=[1, 0]),
        graphs.node("MatMul", ["hidden", "head"], ["logits"]),
    ]
    inputs = [graphs.info("ids", ("batch", "sequence"), graphs.INT64)]
    outs = [graphs.info("logits", ("batch", "sequence", 200))]
    graphs.saved(graphs.model(nodes, inputs, outs, {"table": table, "w": graphs.weights(32, 32)}), place)
    ids = np.minimum(generator.geometric(0.05, size=(48, 1, 8)), 199)
    np.savez(place / "data.npz", ids=ids)


def test_a_table_is_written_as_codes_whose_clusters_have_their_own_ranks(place: Path) -> None:
    tokens(place)
    far, written, _ = gated_and_written(place, Flop(tables=True), "some closed")
    assert far <= 1e-5
    codes = [x.shape[1] for name, x in stored(written).items() if ".codes." in name]
    assert len(codes) == 3
    assert len(set(codes)) > 1


def test_a_table_and_a_linear_meet_one_size_together(place: Path) -> None:
    tokens(place)
    result = trained(place, "flop", "keep=0.5", "tables=yes")
    assert 0.46 <= result.details["share"] <= 0.5
    assert set(result.details["ranks"]) == {"linear.0", "embedding.0.0", "embedding.0.1", "embedding.0.2"}


def test_every_component_that_must_stay_does(place: Path) -> None:
    tokens(place)
    one = trainee(place, Flop(tables=True))
    form = factored(one, tables=True, sites=(), method="flop")
    kept = filling(form, 0.1)([np.zeros(each.gated.units) for each in form.components])
    assert [int(stays.sum()) for stays in kept] == [component.least for component in form.components]
    assert sum(component.least for component in form.components) == 3


def test_minitron_cuts_the_same_counts_everywhere_and_wins_loss_back(place: Path) -> None:
    result = trained(place, "minitron", "heads=0.5", "neurons=0.75", "lr=0.003", "steps=40")
    held = stored(place / "out.onnx")
    # 2 of 4 heads of 16, 72 of 96 neurons, in both layers.
    assert [held[f"{at}.attention.q.weight"].shape for at in range(2)] == [(64, 32)] * 2
    assert [held[f"{at}.feed.up.weight"].shape for at in range(2)] == [(64, 72)] * 2
    assert result.loss[1] < result.loss[0]
    assert result.training.distill == 1


def peers(place: Path, *, recycle: bool) -> tuple[Trainee, PeerTraining]:
    method = PeerDistillation(keep=4, recycle=recycle)
    one = trainee(place, method)
    procedure = method.start(one)
    assert isinstance(procedure, PeerTraining)
    return one, procedure


def test_recycled_heads_lose_less_than_dropped_ones(place: Path) -> None:
    losses = []
    for recycle in (True, False):
        one, procedure = peers(place, recycle=recycle)
        values = [np.array([1.0, 0.0, 1.0, 0.0])] * 2
        procedure.values = values
        procedure.decided(values)
        with procedure.judging():
            losses.append(one.held_out(procedure))
    assert losses[0] < losses[1]


def test_weights_rest_while_gates_choose(place: Path) -> None:
    one, procedure = peers(place, recycle=True)
    before = {name: value.detach().clone() for name, value in one.parameters.items()}
    batch = next(one.batches.from_step(0))
    procedure.before_step(0)
    one.loss(procedure, 0, batch)
    procedure.after_backward(0)
    assert all(value.grad is None for value in one.parameters.values())
    assert all(logit.grad is not None for logit in procedure.gates_of_units.logits)
    assert all(torch.equal(value, before[name]) for name, value in one.parameters.items())


def test_peers_share_a_number_of_heads_out_by_themselves(place: Path) -> None:
    result = trained(place, "peer-distillation", "keep=5", "gate_lr=0.2")
    assert sum(map(len, result.details["kept"].values())) == 5
    assert result.loss[1] < 1
    assert "peers" in result.history[-1]


def test_rounds_of_ziplm_take_equal_ratios() -> None:
    # 8 in three rounds: 2, 4, 8.
    assert ZipLM(speedup=8, rounds=3).targets() == pytest.approx((2, 4, 8))


def test_ziplm_reaches_its_speed_by_the_clock_in_rounds(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.training.parse_target", lambda _: WorkTarget())
    result = trained(place, "ziplm", "speedup=2", "rounds=2", "between=5", "steps=10")
    first, last = result.details["rounds"]
    assert first["asked"] == pytest.approx(2**0.5)
    assert first["measured"] >= 2**0.5
    assert last["measured"] >= 2
    assert result.details["hidden_states"] > 0
    sizes = [sum(x.size for x in stored(place / name).values() if x.ndim == 2) for name in ("model.onnx", "out.onnx")]
    assert sizes[0] / sizes[1] >= 2
    assert np.isfinite(result.loss[1])


@pytest.mark.parametrize(
    ("method", "options", "line"),
    [
        ("head-gates", ["gate_lr=0"], "head-gates: gate_lr must be above 0, got 0.0."),
        ("head-gates", ["decide=1"], "head-gates: decide must be a share in (0, 1), got 1.0."),
        ("head-gates", ["keep=1.5"], "head-gates: keep must be a share in [0, 1) or a count, got 1.5."),
        ("head-gates", ["price=-1"], "head-gates: price must be at least 0, got -1.0."),
        ("flop", ["keep=1"], "flop: keep must be a share in (0, 1), got 1.0."),
        ("flop", ["order=-1"], "flop: order must be at least 0, got -1.0."),
        ("flop", ["drop=0"], "flop: drop must be a share in (0, 1), got 0.0."),
        ("minitron", ["heads=0"], "minitron: heads must be a share in (0, 1], got 0.0."),
        (
            "minitron",
            ["heads=1", "neurons=1"],
            "minitron: heads and neurons are both 1, so that nothing goes. Give a share below 1.",
        ),
        ("minitron", ["multiple=0"], "minitron: multiple must be at least 1, got 0."),
        ("minitron", ["score=best"], "minitron: score must be one of "),
        ("peer-distillation", ["keep=0"], "peer-distillation: keep must be above 0, got 0."),
        ("peer-distillation", ["peer=-1"], "peer-distillation: peer must be at least 0, got -1.0."),
        ("ziplm", ["speedup=1"], "ziplm: speedup must be above 1, got 1.0."),
        ("ziplm", ["rounds=0"], "ziplm: rounds must be at least 1, got 0."),
        ("ziplm", ["hidden=-1"], "ziplm: hidden must be at least 0, got -1.0."),
    ],
)
def test_a_wrong_option_is_told_in_one_line(method: str, options: list[str], line: str) -> None:
    with pytest.raises(OptionError) as told:
        settings_of(method, options)
    assert str(told.value).startswith(line)


@pytest.mark.parametrize(
    ("method", "options", "line"),
    [
        ("head-gates", [], "head-gates: the model must have attention heads that can be gated, it has none."),
        (
            "peer-distillation",
            [],
            "peer-distillation: the model must have attention heads that can be gated, it has none.",
        ),
        ("minitron", ["heads=0.5"], "minitron: remove-heads found nothing to cut: no heads were found."),
    ],
)
def test_a_model_without_heads_is_refused_in_one_line(place: Path, method: str, options: list[str], line: str) -> None:
    onnx.save(graphs.residual_blocks(), place / "model.onnx")
    with pytest.raises(DataError) as told:
        trained(place, method, *options)
    assert str(told.value) == line
    assert not (place / "out.onnx").exists()


def test_more_heads_than_there_are_cannot_be_kept(place: Path) -> None:
    with pytest.raises(OptionError) as told:
        trained(place, "head-gates", "keep=9")
    assert str(told.value) == "head-gates: keep must be at most the model's 8 heads, got 9."


def test_a_method_without_a_clock_says_so(place: Path) -> None:
    method = ZipLM()
    with pytest.raises(DataError) as told:
        method.start(trainee(place, method))
    assert str(told.value) == "ziplm: it searches by the clock, and none is at hand. Use onnxprune.train."
