"""Sites that lie across each other on the same weights, cut in one go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import optimize
from onnxprune.errors import OptionError
from tests.attentions import one_by_one
from tests.building import Net

WIDTH, HEADS, SIZE = 24, 3, 8


def saved(net: Net, folder: Path) -> tuple[Path, str]:
    path = folder / "model.onnx"
    onnx.save(net.proto(), path)
    data = folder / "data.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((16, 1, 6, WIDTH)).astype(np.float32))
    return path, str(data)


def across() -> Net:
    """One linear whose outputs are groups x members: each is summed away together with the other."""
    net = Net(seed=2)
    x = net.input("x", ["b", "s", WIDTH])
    apart = net.reshape(net.linear(x, WIDTH, WIDTH), 0, 0, HEADS, SIZE)
    scaled = net.op("Mul", net.op("Relu", apart), net.weight(HEADS, 1))
    together = net.reshape(net.op("Mul", scaled, net.weight(SIZE)), 0, 0, WIDTH)
    net.output(net.linear(together, WIDTH, WIDTH))
    return net


@pytest.mark.parametrize("score", ["obs", "magnitude", "wanda"])
def test_units_that_lie_across_each_other_go_in_one_pass(score: str, tmp_path: Path) -> None:
    path, data = saved(across(), tmp_path)
    result = optimize(path, data=data, output=tmp_path / "o.onnx", passes=[f"remove-neurons:keep=0.67,score={score}"])
    sizes = {tuple(each.dims) for each in onnx.load(tmp_path / "o.onnx").graph.initializer}
    # ceil(0.67 x 3) of the groups and ceil(0.67 x 8) of the members stay: 3 x 6, or 2 x 5 by rounding down.
    assert (WIDTH, WIDTH) not in sizes
    assert np.isfinite(result.fidelity.score)


def test_what_a_head_of_its_own_takes_along_is_told(tmp_path: Path) -> None:
    path, data = saved(one_by_one(WIDTH, (SIZE,) * HEADS), tmp_path)
    result = optimize(path, data=data, output=tmp_path / "o.onnx", passes=["remove-heads:keep=2"])
    changes = [change for one in result.to_json()["passes"] for change in one["changes"]]
    told = {change["what"].partition(":")[0]: change for change in changes}
    assert told["1 of 3 heads removed and the rest refitted"]["params_before"] == HEADS * SIZE * WIDTH
    gone = told["weights that nothing reads any more"]
    # Three linears [24, 8] with their biases.
    assert (gone["params_before"], gone["params_after"]) == (3 * (WIDTH * SIZE + SIZE), 0)


def test_weights_keep_their_numbers_when_others_go_with_a_head(tmp_path: Path) -> None:
    path, data = saved(one_by_one(WIDTH, (SIZE,) * HEADS), tmp_path)
    passes = ["remove-heads:units=heads.0/1", "sparse-int8:sites=linear.4+linear.9"]
    result = optimize(path, data=data, output=tmp_path / "o.onnx", passes=passes)
    # Of the linears 0 to 9 the middle head had 3 to 5: linear 4 is no more, and linear 9 is still the last.
    skipped = {skip["site"]: skip["why"] for skip in result.to_json()["passes"][-1]["skips"]}
    assert skipped.pop("linear.9").startswith("fewer than 1024 numbers")
    assert skipped == dict.fromkeys([f"linear.{at}" for at in (0, 1, 2, 6, 7, 8)], "not among option sites")
    with pytest.raises(OptionError, match=r"no site 'linear\.10'"):
        optimize(path, data=data, output=tmp_path / "p.onnx", passes=["sparse-int8:sites=linear.10"])
