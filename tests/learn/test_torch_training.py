"""Training methods on a torch module: exported, trained as a graph, written back and exported again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxprune import train
from onnxprune.errors import OptionError
from onnxprune.graph import constants, numbers
from onnxprune.model import load
from onnxprune.runtime import open_session


@pytest.fixture(name="place", autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 1, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", input=x, labels=(x.sum((1, 2)) > 0).astype(np.int64))
    return tmp_path


def network(*, norm: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    middle: list[torch.nn.Module] = [torch.nn.BatchNorm1d(16)] if norm else []
    made = torch.nn.Sequential(
        torch.nn.Linear(16, 16), *middle, torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(),
        torch.nn.Linear(16, 2),
    )  # fmt: skip
    for each in made:
        if isinstance(each, torch.nn.Linear):
            # Exporters store equal tensors once; these two biases must be trained apart all the same.
            torch.nn.init.zeros_(each.bias)
    return made


def trained(place: Path, module: Any, **rest: Any) -> Any:
    given: dict[str, Any] = {"inputs": torch.randn(2, 16), "output": place / "out.onnx"} | rest
    options = ["steps=20", "batch=16", "lr=0.01", "check=10", "sparsity=0.5", "every=2"]
    return train(module, "gradual-magnitude", data=str(place / "data.npz"), options=options, **given)


def test_a_module_is_trained_in_place_and_exported(place: Path) -> None:
    module = network()
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    result = trained(place, module)
    assert result.notes[-1] == "the module holds the trained numbers, the file is its torchscript export"
    assert result.to_json()["task"]["kind"] == "labels"
    for name in ("0.weight", "2.weight"):
        assert float((module.get_parameter(name) == 0).float().mean()) == 0.5
    biases = [module.get_parameter(f"{at}.bias") for at in (0, 2)]
    assert not torch.equal(*biases)
    assert not any(torch.equal(each, before[name]) for name, each in module.named_parameters())
    x = torch.randn(3, 16)
    came = open_session(place / "out.onnx").run({"input": x.numpy()})
    wanted = module.eval()(x).detach().numpy()
    assert np.allclose(next(iter(came.values())), wanted, atol=1e-5)


def test_parameters_that_the_export_folds_leave_the_module_alone(place: Path) -> None:
    module = network(norm=True)
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    result = trained(place, module)
    assert result.notes[-1].startswith("the module stays as it was, the file is the trained graph: ")
    assert all(torch.equal(each, before[name]) for name, each in module.named_parameters())
    zeros = [np.mean(numbers(one) == 0) for one in constants(load(place / "out.onnx").graph) if len(one.shape) == 2]
    assert max(zeros) == 0.5


@pytest.mark.parametrize(
    ("model", "rest", "line"),
    [
        (3, {}, "train: the model must be a path or a torch.nn.Module, got int. Give one of them."),
        (
            torch.nn.Linear(16, 2),
            {"inputs": None},
            "train: a module needs an example call and a place for the file. Give inputs= and output=.",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(place: Path, model: Any, rest: dict[str, Any], line: str) -> None:
    with pytest.raises(OptionError) as told:
        trained(place, model, **rest)
    assert str(told.value) == line
