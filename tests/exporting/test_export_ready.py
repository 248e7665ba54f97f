"""Masks, parametrizations and gates become part of the weights; outputs stay, and so does the original."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from onnxprune import export_ready
from onnxprune.errors import ModelError
from onnxprune.exporting import fold
from onnxprune.exporting import folding as steps
from tests.exporting.networks import Attention, Convolutional, Gated, Unfoldable


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def difference(one: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    """Largest difference of two modules, of the larger output."""
    with torch.no_grad():
        a, b = one.eval()(x), other.eval()(x)
        return float((a - b).abs().max() / a.abs().max())


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_pruning_masks_are_folded_and_the_original_stays() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    prune.ln_structured(module[0], "weight", 0.5, 2, 0)
    prune.random_unstructured(module[0], "bias", 0.5)
    before, x = state(module), torch.randn(5, 8)
    ready = export_ready(module)
    assert difference(module, ready, x) == 0
    assert set(ready.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert int((ready[0].weight == 0).all(dim=1).sum()) == 8  # type: ignore[index]
    assert state(module).keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in state(module).items())
    assert prune.is_pruned(module)
    assert not prune.is_pruned(ready)


def test_parametrizations_are_folded_and_the_original_keeps_them() -> None:
    module = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(8, 16)), parametrizations.orthogonal(nn.Linear(16, 16))
    )
    x = torch.randn(5, 8)
    folded = fold(module)
    assert dict(folded.folded) == {
        "0.weight": "parametrization WeightNorm",
        "1.weight": "parametrization Orthogonal",
    }
    assert difference(module, folded.module, x) < 1e-6
    assert {name for name, _ in folded.module.named_parameters()} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert parametrize.is_parametrized(module[0], "weight")
    # The original still trains.
    module(x).sum().backward()
    assert module[0].parametrizations.weight.original0.grad is not None  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_older_norms_are_folded() -> None:
    module = nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)), nn.utils.spectral_norm(nn.Linear(8, 8)))
    x = torch.randn(5, 8)
    module(x)
    ready = export_ready(module)
    assert difference(module, ready, x) < 1e-6
    assert {name for name, _ in ready.named_parameters()} == {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize(
    ("kind", "shape", "folded", "left"),
    [
        (
            Gated,
            (3, 8),
            {
                "gate": "gate, into the weights that read it",
                "scale": "gate, into the weight before it",
                "mask": "mask of last.weight",
            },
            {},
        ),
        (Attention, (2, 5, 64), {"gate": "gate, into the weights that read it"}, {}),
        (
            Convolutional,
            (2, 3, 9, 9),
            {"gate": "gate, into the weight before it", "scale": "gate, into the weight before it"},
            {},
        ),
        (Unfoldable, (3, 8), {}, {"gate": "gate is used in several places"}),
    ],
)
def test_gates_are_folded_where_a_trace_proves_it(
    kind: type[nn.Module], shape: tuple[int, ...], folded: dict[str, str], left: dict[str, str]
) -> None:
    module, x = kind(), torch.randn(shape)
    module(x)
    before = state(module)
    result = fold(module, x)
    assert (dict(result.folded), dict(result.left)) == (folded, left)
    assert difference(module, result.module, torch.randn(shape)) < 1e-6
    assert all(bool((result.module.state_dict()[name] == 1).all()) for name in folded)
    assert all(torch.equal(before[name], tensor) for name, tensor in state(module).items())


def test_without_inputs_gates_behind_reshapes_stay_and_say_why() -> None:
    result = fold(Attention())
    assert dict(result.folded) == {}
    assert dict(result.left) == {
        "gate": "a reshape stands between gate and weight; give example inputs; no weight stands right before it"
    }
    assert dict(fold(Gated()).folded) == dict(fold(Gated(), torch.randn(3, 8)).folded)


def test_a_gate_that_differs_from_place_to_place_stays() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.gate = nn.Linear(8, 8), nn.Parameter(torch.rand(5, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear(x * self.gate)
            return y

    module, x = Places(), torch.randn(2, 5, 8)
    for inputs in (None, x):
        result = fold(module, inputs)
        assert dict(result.folded) == {}
        assert "it is not one number a feature" in result.left["gate"]
        assert difference(module, result.module, x) == 0


def test_weights_that_others_read_too_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.gate = nn.Linear(8, 8), nn.Parameter(torch.rand(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear(self.linear(x) * self.gate)
            return y

    module, x = Tied(), torch.randn(3, 8)
    for inputs in (None, x):
        result = fold(module, inputs)
        assert dict(result.left) == {"gate": "the weight beside it is used in several places"}
        assert difference(module, result.module, x) == 0


def test_a_gate_in_place_is_left_alone_where_others_read_the_tensor() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.gate = nn.Linear(8, 8), nn.Parameter(torch.rand(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            z = self.linear(y.mul_(self.gate))
            total: torch.Tensor = z + y
            return total

    module, x = InPlace(), torch.randn(3, 8)
    for inputs in (None, x):
        assert difference(module, fold(module, inputs).module, x) < 1e-6


def test_a_gate_of_either_sign_passes_no_relu() -> None:
    class Signed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.gate = nn.Linear(8, 8), nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = nn.functional.relu(self.linear(x)) * self.gate
            return y

    module, x = Signed(), torch.randn(3, 8)
    assert dict(fold(module, x).folded) == {}
    with torch.no_grad():
        module.gate.abs_()
    result = fold(module, x)
    assert dict(result.folded) == {"gate": "gate, into the weight before it"}
    assert difference(module, result.module, x) < 1e-6


def test_dropout_is_off_and_the_training_flag_of_the_original_stays() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).train()
    ready = export_ready(module)
    assert (module.training, ready.training) == (True, False)
    assert difference(module, ready, torch.randn(3, 8)) == 0


def test_a_copy_that_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(module: nn.Module, inputs: Any) -> tuple[dict[str, str], dict[str, str]]:
        del inputs
        module.linear.weight.mul_(2)  # type: ignore[union-attr, operator]
        return {}, {}

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear(x)
            return y

    monkeypatch.setattr(steps, "fold_gates", spoil)
    with pytest.raises(
        ModelError, match=r"^export_ready: output 0 moved by .* is rounding\. Fold this module by hand\.$"
    ):
        export_ready(One(), torch.randn(3, 8))


def test_the_package_is_imported_without_torch() -> None:
    lines = [
        "import sys, onnxprune, onnxprune.checking, onnxprune.exporting",
        "assert 'torch' not in sys.modules",
        "sys.modules['torch'] = None",
        "try: onnxprune.export_ready(None)",
        "except onnxprune.errors.MissingDependencyError as error: print(error)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout == "export_ready needs torch. Install it: pip install 'onnxprune[torch]'.\n"
