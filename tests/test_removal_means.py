"""Behind consumers that are not refitted what went is made up for on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import optimize
from onnxprune.runtime import open_session
from tests.building import Net

CHANNELS, GROUPS = 8, 2


def grouped(*, behind: bool) -> Net:
    """Channels that a rectifier leaves positive, summed by a convolution of two groups, with a further one behind."""
    net = Net(seed=4)
    x = net.input("x", ["b", 3, 6, 6])
    made = net.op("Relu", net.op("Conv", x, net.weight(CHANNELS, 3, 1, 1), net.constant(np.ones(CHANNELS, np.float32))))
    y = net.op("Conv", made, net.weight(CHANNELS, CHANNELS // GROUPS, 3, 3), group=GROUPS, pads=[1, 1, 1, 1])
    net.output(net.op("Conv", net.op("Relu", y), net.weight(5, CHANNELS, 1, 1)) if behind else y)
    return net


def cut(net: Net, folder: Path, spec: str) -> tuple[Any, list[np.ndarray[Any, Any]]]:
    """The result, and what original and cut model give on the calibration samples [n, channels, 6, 6]."""
    path = folder / "model.onnx"
    onnx.save(net.proto(), path)
    x = np.random.default_rng(0).standard_normal((32, 1, 3, 6, 6)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    result = optimize(path, data=str(folder / "data.npz"), output=folder / "o.onnx", passes=[spec], fresh=True)
    # Every fourth sample judges.
    seen = np.delete(x, np.s_[3::4], axis=0)
    return result, [
        np.concatenate([next(iter(open_session(file).run({"x": one}).values())) for one in seen])
        for file in (path, folder / "o.onnx")
    ]


def test_a_grouped_convolution_keeps_its_means(tmp_path: Path) -> None:
    result, (before, after) = cut(grouped(behind=False), tmp_path, "remove-channels:keep=0.5")
    (change,) = [one for one in result.to_json()["passes"][-1]["changes"] if "removed" in one["what"]]
    assert "means kept, not refitted" in change["what"]
    means = [one.mean(axis=(0, 2, 3)) for one in (before, after)]
    assert np.abs(before - after).max() > 0.1
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def test_without_a_refit_nothing_is_made_up_for(tmp_path: Path) -> None:
    _, (before, after) = cut(grouped(behind=False), tmp_path, "remove-channels:keep=0.5,refit=no,score=magnitude")
    means = [one.mean(axis=(0, 2, 3)) for one in (before, after)]
    assert np.abs(means[1] - means[0]).max() > 0.1


@pytest.mark.parametrize("sites", ["channels.0", "channels.0+channels.1", "channels.0+channels.1+channels.2"])
def test_sites_across_each_other_keep_them_together(sites: str, tmp_path: Path) -> None:
    with_means, _ = cut(grouped(behind=True), tmp_path, f"remove-channels:keep=0.5,sites={sites}")
    without, _ = cut(grouped(behind=True), tmp_path, f"remove-channels:keep=0.5,sites={sites},refit=no")
    assert with_means.fidelity.score > without.fidelity.score + 0.1
