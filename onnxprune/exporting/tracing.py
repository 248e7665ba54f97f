"""A module as a graph of operations on its stored tensors: by torch.export where there are inputs, else by torch.fx."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxprune.errors import Declined

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

# Where operators of torch.export take their weights.
_ORDER = {
    "batchnorm": ("input", "weight", "bias"),
    "layernorm": ("input", "normalized_shape", "weight", "bias"),
}


VIEWS = frozenset(
    {
        "_unsafe_view",
        "expand",
        "flatten",
        "getitem",
        "movedim",
        "permute",
        "reshape",
        "squeeze",
        "transpose",
        "unsqueeze",
        "view",
    }
)


class Traced:
    """The graph, with the stored tensors behind its nodes."""

    def __init__(self, module: nn.Module, graph: fx.Graph, stored: dict[str, str]) -> None:
        self._module = module
        self._stored = stored
        self.nodes = list(graph.nodes)
        self._tensors: dict[str, torch.Tensor] = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        self._parts = dict(module.named_modules(remove_duplicate=False))
        # How often each stored tensor is used, wherever and under whatever name.
        self._uses: Counter[int] = Counter()
        for node in self.nodes:
            tensor = self.tensor(node)
            if tensor is not None:
                self._uses[id(tensor)] += len(node.users)
            if node.op == "call_module":
                for held in self._parts[node.target].parameters():
                    self._uses[id(held)] += 1

    def kind(self, node: Any) -> str:
        """What an operation is called, whatever way it was traced."""
        op = getattr(node, "op", "")
        if op == "call_module":
            return _unified(type(self._parts[node.target]).__name__.lower())
        if op == "call_method":
            return _unified(str(node.target))
        if op == "call_function":
            return _unified(getattr(node.target, "__name__", str(node.target)))
        return op

    def stored(self, node: Any) -> Any:
        """The node that hands out the stored tensor behind views that only add axes or rearrange them."""
        while self.kind(node) in VIEWS and len(node.users) == 1 and not _picks(node):
            node = node.args[0]
        return node

    def value(self, node: Any) -> torch.Tensor:
        """The stored tensor as the views in front of it show it.

        Raises:
            Declined: a view cannot be carried out alone.
        """
        tensor = self.tensor(node)
        return tensor if tensor is not None else self.step(node)(self.value(node.args[0]))

    def name(self, node: Any) -> str:
        """The stored tensor's name; empty where the node is none."""
        if getattr(node, "op", "") == "get_attr":
            return str(node.target)
        return self._stored.get(getattr(node, "name", ""), "")

    def tensor(self, node: Any) -> torch.Tensor | None:
        """The stored tensor that a node hands out."""
        return self._tensors.get(self.name(node))

    def weights(self, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        """Weight, bias and groups of a linear or convolution.

        Raises:
            Declined: the weight is computed, not stored.
        """
        if node.op == "call_module":
            part: Any = self._parts[node.target]
            if part.weight is None:
                raise Declined("the norm beside it has no weight")
            return part.weight, part.bias, int(getattr(part, "groups", 1))
        usual = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        names = _ORDER.get(self.kind(node), usual)
        given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        weight, bias = self.tensor(given.get("weight")), given.get("bias")
        if weight is None or (bias is not None and self.tensor(bias) is None):
            raise Declined("the weight beside it is computed, not stored")
        groups = given.get("groups", 1)
        return weight, None if bias is None else self.tensor(bias), groups if isinstance(groups, int) else 1

    def require_single_use(self, node: Any) -> None:
        """Decline a stored tensor that is used more than once."""
        tensor = self.tensor(node)
        if tensor is not None and self._uses[id(tensor)] > 1:
            raise Declined(f"{self.name(node)} is used in several places")

    def require_own_weight(self, node: fx.Node) -> None:
        """Decline a linear whose weight or bias is used by another operation, too."""
        weight, bias, _ = self.weights(node)
        if any(self._uses[id(tensor)] > 1 for tensor in (weight, bias) if tensor is not None):
            raise Declined("the weight beside it is used in several places")

    def shape(self, node: fx.Node) -> tuple[int, ...] | None:
        """Sizes of a node's result in the example call; None without one."""
        value = node.meta.get("val")
        return tuple(int(size) for size in value.shape) if value is not None else None

    def step(self, node: fx.Node) -> Callable[[Any], Any]:
        """A view as a function of a tensor."""
        if any(hasattr(arg, "op") for arg in node.args[1:]) or node.op not in {"call_function", "call_method"}:
            return _refuse
        if node.op == "call_method":
            return lambda value: getattr(value, str(node.target))(*node.args[1:], **node.kwargs)
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        return lambda value: target(value.contiguous(), *node.args[1:], **node.kwargs)


def _picks(node: fx.Node) -> bool:
    """Whether an index takes some entries rather than adding axes."""
    if _unified(getattr(node.target, "__name__", "")) != "getitem":
        return False
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return any(one is not None and one is not Ellipsis and one != slice(None) for one in index)


def _refuse(value: Any) -> Any:
    del value
    raise Declined("a reshape stands between gate and weight; give example inputs")


def _unified(name: str) -> str:
    base = name.partition(".")[0]
    # conv2d, Dropout1d, BatchNorm3d, batch_norm, layer_norm: the number of axes is no other operation.
    if base[-2:] in {"1d", "2d", "3d"}:
        base = base[:-2]
    return {"batch_norm": "batchnorm", "convolution": "conv", "layer_norm": "layernorm"}.get(base, base)


def trace(module: nn.Module, inputs: Any) -> Traced:
    """The graph of a module.

    Raises:
        Declined: neither way of tracing takes it.
    """
    import torch

    if inputs is not None:
        from onnxprune.exporting.folding import arguments

        args, kwargs = arguments(inputs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(module, args, kwargs)
        except Exception as error:
            raise Declined(f"torch.export cannot trace it: {_first(error)}") from error
        names = program.graph_signature
        stored = {**names.inputs_to_parameters, **names.inputs_to_buffers}
        return Traced(module, program.graph, stored)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch.fx.Tracer().trace(module)
    except Exception as error:
        raise Declined(f"torch.fx cannot trace it without example inputs: {_first(error)}") from error
    return Traced(module, graph, {})


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
