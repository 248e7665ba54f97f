"""Convolutional networks as torch exports them: a ResNet, a MobileNet and a U-Net made by configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.equality import BOUND, compare, error_in_doubles, traced

pytestmark = pytest.mark.filterwarnings("ignore")


def block(c_in: int, c_out: int, stride: int = 1, groups: int = 1, side: int = 3, *, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, side, stride, side // 2, groups=groups, bias=False)]
    layers += [nn.BatchNorm2d(c_out), *([nn.ReLU6()] if act else [])]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """A basic block, its shortcut a convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(block(c_in, c_out, stride), block(c_out, c_out, act=False))
        self.short = block(c_in, c_out, stride, side=1, act=False) if (c_in, stride) != (c_out, 1) else nn.Identity()

    def forward(self, x: Any) -> Any:
        """[batch, channels, height, width]."""
        return torch.relu(self.body(x) + self.short(x))


class Inverted(nn.Module):
    """MobileNet's block with squeeze and excitation."""

    def __init__(self, c_in: int, c_out: int, wide: int, stride: int) -> None:
        super().__init__()
        self.expand, self.depth = block(c_in, wide, side=1), block(wide, wide, stride, groups=wide)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 6, 1), nn.ReLU(), nn.Conv2d(6, wide, 1), nn.Hardsigmoid()
        )
        self.project = block(wide, c_out, side=1, act=False)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: Any) -> Any:
        """[batch, channels, height, width]."""
        y = self.depth(self.expand(x))
        y = self.project(y * self.squeeze(y))
        return x + y if self.skip else y


class UNet(nn.Module):
    """Two levels down, two up, with concatenated skips."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 8), block(8, 12), block(12, 16)
        self.up_b, self.up_a = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.join_b, self.join_a, self.head = block(24, 12), block(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Any) -> Any:
        """[batch, channels, height, width]."""
        pool = nn.functional.max_pool2d
        a = self.a(x)
        b = self.b(pool(a, 2))
        c = self.c(pool(b, 2))
        b = self.join_b(torch.cat([b, self.up_b(c)], 1))
        return self.head(self.join_a(torch.cat([a, self.up_a(b)], 1)))


def resnet() -> nn.Module:
    stages = [Residual(8, 8, 1), Residual(8, 12, 2), Residual(12, 12, 1)]
    return nn.Sequential(block(3, 8), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def mobilenet() -> nn.Module:
    stages = [Inverted(8, 8, 16, 1), Inverted(8, 12, 20, 2)]
    return nn.Sequential(block(3, 8, 2), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(12, 5))


# Counted by hand: widths of the dimensions in order of first appearance.
# ResNet: stem, both residual blocks of width 8 tie to the stem; the middle of each block is its own; 12 likewise.
RESNET = [8, 8, 12, 12, 12]
# MobileNet: the stem ties to the first block's output; each block has its wide middle and the 6 of its squeeze.
MOBILENET = [8, 16, 6, 20, 6, 12]
# U-Net: each level's width, the two upsampled ones, the two joined ones.
UNET = [8, 12, 16, 12, 12, 8, 8]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "resnet": (resnet, RESNET),
    "mobilenet": (mobilenet, MOBILENET),
    "unet": (UNet, UNET),
}


def export(module: nn.Module, path: Path, exporter: str) -> None:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 16, 16)
    if exporter == "torchscript":
        torch.onnx.export(
            module.eval(), (x,), str(path), dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )  # fmt: skip
    else:
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            module.eval(), (x,), dynamo=True, opset_version=18, input_names=["x"], dynamic_shapes=shapes, verbose=False
        )
        assert program is not None
        program.save(str(path))


def images(batches: Sequence[int]) -> list[dict[str, np.ndarray[Any, Any]]]:
    numbers = np.random.default_rng(0)
    return [{"x": numbers.standard_normal((batch, 3, 16, 16)).astype(np.float32)} for batch in batches]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_channels_of_a_network_are_cut_exactly(name: str, exporter: str, tmp_path: Path) -> None:
    make, widths = NETWORKS[name]
    export(make(), tmp_path / "net.onnx", exporter)
    held = traced(tmp_path / "net.onnx", images([2, 3, 5]))
    found = [each for each in held.dimensions.prunable if each.kind == "channels"]
    assert [each.units for each in found] == widths
    removals = {each.index: list(range(0, each.units, 3)) for each in found}
    error, moved = compare(held, removals, images([1, 4]))
    assert error <= BOUND
    assert moved > 0.01


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_in_doubles_nothing_is_left_of_the_difference(name: str, tmp_path: Path) -> None:
    """Rounding of float64 over some dozen layers stays far below 1e-12; a wrong cut would not."""
    export(NETWORKS[name][0](), tmp_path / "net.onnx", "torchscript")
    held = traced(tmp_path / "net.onnx", images([2, 3, 5]))
    removals = {each.index: [0, each.units - 1] for each in held.dimensions.prunable}
    assert error_in_doubles(held, removals, images([2])[0]) < 1e-12
