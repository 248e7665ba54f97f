"""EfficientNet-lite0 as a torch module, shaped by its own weights.

Source: Tan and Le 2019, EfficientNet; the lite variant drops squeeze-and-excite and uses ReLU6.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu6

IMAGE_SIZE = 224
# Blocks that halve the image, as the paper's table 1 has them.
_HALVING = frozenset({1, 3, 5, 11})


class _SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow does: the odd pixel goes to the right and to the bottom."""

    def __init__(self, shape: torch.Size, stride: int, *, depthwise: bool = False) -> None:
        groups = shape[0] if depthwise else 1
        super().__init__(shape[1] * groups, shape[0], shape[2], stride, groups=groups, bias=False)
        missing = shape[2] - stride
        self._same = (missing // 2, missing - missing // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, self._same) if any(self._same) else x)


class _Block(nn.Module):
    """Inverted residual: widen pointwise, filter each channel, narrow pointwise, add where shapes agree."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, stride: int) -> None:
        super().__init__()
        depthwise, project = (weights[f"{prefix}{name}.weight"].shape for name in ("_depthwise_conv", "_project_conv"))
        self.widens = f"{prefix}_expand_conv.weight" in weights
        if self.widens:
            expand = weights[f"{prefix}_expand_conv.weight"].shape
            self._expand_conv, self._bn0 = _SameConv(expand, 1), nn.BatchNorm2d(expand[0], eps=1e-3)
        self._depthwise_conv = _SameConv(depthwise, stride, depthwise=True)
        self._bn1 = nn.BatchNorm2d(depthwise[0], eps=1e-3)
        self._project_conv, self._bn2 = _SameConv(project, 1), nn.BatchNorm2d(project[0], eps=1e-3)
        self.adds = stride == 1 and self.widens and expand[1] == project[0]

    def forward(self, x: Tensor) -> Tensor:
        wide = relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        narrow = self._bn2(self._project_conv(relu6(self._bn1(self._depthwise_conv(wide)))))
        return cast("Tensor", x + narrow if self.adds else narrow)


class EfficientNetLite0(nn.Module):
    """Image [batch, 3, 224, 224], scaled as (rgb - 127) / 128, to logits [batch, 1000]."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        stem, head = weights["_conv_stem.weight"].shape, weights["_conv_head.weight"].shape
        blocks = sum(name.endswith("_project_conv.weight") for name in weights)
        self._conv_stem, self._bn0 = _SameConv(stem, 2), nn.BatchNorm2d(stem[0], eps=1e-3)
        self._blocks = nn.ModuleList(
            _Block(weights, f"_blocks.{index}.", 2 if index in _HALVING else 1) for index in range(blocks)
        )
        self._conv_head, self._bn1 = _SameConv(head, 1), nn.BatchNorm2d(head[0], eps=1e-3)
        classes, width = weights["_fc.weight"].shape
        self._fc = nn.Linear(width, classes)
        self.load_state_dict(dict(weights))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        x = relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            x = block(x)
        x = relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return cast("Tensor", self._fc(x))
