"""Small torch modules with masks, gates and pruned units; `package.module:factory` for the tests of check."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune


class Gated(nn.Module):
    """A gate between two linears, a mask on a third one's weight, and a gate on what leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.last = nn.Linear(8, 12), nn.Linear(12, 6), nn.Linear(6, 6)
        self.gate = nn.Parameter(torch.rand(12))
        self.scale = nn.Parameter(torch.randn(6))
        self.mask: torch.Tensor
        self.register_buffer("mask", (torch.rand(6, 6) > 0.5).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        y = self.down(functional.relu(self.up(x)) * self.gate) * self.scale
        return functional.linear(y.tanh(), self.last.weight * self.mask, self.last.bias)


class Attention(nn.Module):
    """Four heads of 16 with a gate each, then a feed-forward block with a norm in front."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(64, 64) for _ in range(4))
        self.gate = nn.Parameter(torch.rand(4))
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        batch, length, _ = x.shape
        q, k, v = (linear(x).view(batch, length, 4, 16).transpose(1, 2) for linear in (self.q, self.k, self.v))
        heads = functional.scaled_dot_product_attention(q, k, v) * self.gate[None, :, None, None]
        x = x + self.o(heads.transpose(1, 2).reshape(batch, length, 64))
        y: torch.Tensor = x + self.down(functional.relu(self.up(self.norm(x))))
        return y


class Convolutional(nn.Module):
    """A gate after a batch norm, and one on a convolution's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
        self.gate, self.scale = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        y: torch.Tensor = self.second(functional.relu(self.norm(self.first(x)) * self.gate)) * self.scale
        return y


class Unfoldable(nn.Module):
    """A gate that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.gate = nn.Parameter(torch.rand(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        y: torch.Tensor = self.two(self.one(x * self.gate) * self.gate)
        return y


class Restless(nn.Module):
    """Takes no export: its operator has no ONNX form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        y: torch.Tensor = self.linear(x)
        # Neither exporter knows this operator.
        return torch.segment_reduce(y.reshape(-1), "sum", lengths=torch.tensor([y.numel()]))


def masked() -> nn.Module:
    """A quarter of the hidden units pruned, the masks still on."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    prune.ln_structured(module[0], "weight", 0.25, 2, 0)
    return module


def pruned() -> tuple[nn.Module, torch.Tensor]:
    """A head, hidden units and some of the residual stream's features set to zero; the last cannot go."""
    torch.manual_seed(0)
    module = Attention()
    with torch.no_grad():
        module.gate[1] = 0
        for tensor in (module.v.weight, module.v.bias):
            tensor[:16] = 0
        for tensor in (module.up.weight, module.up.bias):
            tensor[:32] = 0
        module.o.weight[:5] = 0
    return module, torch.randn(2, 7, 64)


def sound() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Nothing pruned; called by keyword."""
    torch.manual_seed(0)
    return Attention(), {"x": torch.randn(2, 7, 64)}


def normalised() -> nn.Module:
    """A pruned convolution with a batch norm behind it, and a table with a row for padding."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    prune.ln_structured(module[0], "weight", 0.25, 2, 0)
    return module


def padded() -> tuple[nn.Module, torch.Tensor]:
    """A table whose row 0 is zero for padding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 8, padding_idx=0), nn.Linear(8, 4)), torch.randint(11, (2, 5))


def restless() -> tuple[nn.Module, torch.Tensor]:
    return Restless(), torch.randn(2, 4)


def nothing() -> Any:
    return 7


def failing() -> nn.Module:
    raise ValueError("no weights\nat all")


def misfed() -> tuple[nn.Module, torch.Tensor]:
    return nn.Linear(4, 4), torch.randn(2, 5)


def unguessable() -> nn.Module:
    return nn.LSTM(4, 4)
