"""What NNAPI and CoreML would take of a model, by onnxruntime's own lists of operators: a forecast, never a time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnxruntime as ort

from onnxprune.errors import ModelError, TargetError
from onnxprune.runtime import Feeds, first_line
from onnxprune.targets.environments import Missing
from onnxprune.targets.placement import CPU, Node, Placement
from onnxprune.targets.timing import Timed

Verdict = Literal["yes", "maybe", "no"]
_FATAL = 4


@dataclass(frozen=True, kw_only=True)
class Lists:
    """A provider's lists of operators.

    Attributes:
        target: as the user writes it.
        provider: as onnxruntime calls it.
        forms: names of the model formats that the provider makes, with the list of each.
        caution: what the lists do not say.
    """

    target: str
    provider: str
    forms: Mapping[str, str]
    caution: str


NNAPI = Lists(
    target="nnapi",
    provider="NnapiExecutionProvider",
    forms={"NNAPI": "nnapi_supported_ops.md"},
    caution="the list names operators, not types; Android 15 deprecated NNAPI",
)
COREML = Lists(
    target="coreml",
    provider="CoreMLExecutionProvider",
    forms={
        "ML Program": "coreml_supported_mlprogram_ops.md",
        "NeuralNetwork": "coreml_supported_neuralnetwork_ops.md",
    },
    caution="the list names operators, not types, and holds no QuantizeLinear or DequantizeLinear",
)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a provider would take of one model, in one of its formats.

    Attributes:
        form: the provider's format.
        verdict: whether onnxruntime's own rule of thumb says to use the provider: one partition over three quarters of
            the nodes is a yes.
        fixed: whether the shapes are as the file states them; False: the forecast assumes that dynamic inputs are made
            fixed, since the provider takes little otherwise.
        placement: nodes and partitions.
    """

    form: str
    verdict: Verdict
    fixed: bool
    placement: Placement

    def to_json(self) -> dict[str, Any]:
        """By name; `kind` says that nothing ran."""
        return {"kind": "forecast", "form": self.form, "verdict": self.verdict, "as_is": self.fixed} | (
            self.placement.to_json()
        )


@dataclass(frozen=True)
class ForecastTarget:
    """A provider that cannot run here, known by its lists of operators."""

    lists: Lists
    latency: ClassVar[Literal["none"]] = "none"
    threads: ClassVar[int] = 1
    # Nothing is timed there.
    signs: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """As the user writes it."""
        return self.lists.target

    @property
    def about(self) -> str:
        """One line for `onnxprune targets`."""
        return f"forecast of the nodes that {self.lists.provider} takes ({self.lists.caution})"

    def probe(self) -> Missing | None:
        """The lists come with onnxruntime; a build without its tools has none."""
        try:
            _checker()
        except ImportError as error:
            return Missing(f"onnxruntime {ort.__version__} here has no tools: {error}", "pip install onnxruntime")
        return None

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:  # noqa: ARG002
        """Nothing runs, so nothing is timed.

        Raises:
            TargetError: always.
        """
        raise TargetError(self._cannot("times"))

    def run(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Mapping[str, np.ndarray[Any, Any]], ...]:  # noqa: ARG002
        """Nothing runs, so there are no outputs.

        Raises:
            TargetError: always.
        """
        raise TargetError(self._cannot("outputs"))

    def _cannot(self, what: str) -> str:
        return f"Target {self.name} is a forecast and gives no {what}. Give a target that runs: cpu, xnnpack, web."

    def place(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Placement, ...]:  # noqa: ARG002
        """Where the nodes of each model would run, in the format that takes most of them."""
        return tuple(best(self.forecast(path)).placement for path in paths)

    def forecast(self, path: Path) -> tuple[Forecast, ...]:
        """One forecast for each format of the provider.

        Raises:
            ModelError: the model does not load.
            TargetError: this onnxruntime has no lists.
        """
        missing = self.probe()
        if missing is not None:
            raise TargetError(f"Target {self.name} cannot be used: {missing}.")
        proto = _optimized(path)
        return tuple(self._forecast(proto, form, table) for form, table in self.lists.forms.items())

    def _forecast(self, proto: onnx.ModelProto, form: str, table: str) -> Forecast:
        tools = _checker()
        found, fixed = self._partitions(proto, table, as_is=True), True
        dynamic, _ = tools.check_shapes(proto.graph)
        if dynamic and _verdict(found) != "yes":
            found, fixed = self._partitions(proto, table, as_is=False), False
        return Forecast(
            form=form,
            verdict=_verdict(found),
            fixed=fixed,
            placement=self._placement(proto, found),
        )

    def _partitions(self, proto: onnx.ModelProto, table: str, *, as_is: bool) -> Any:
        if self.lists is COREML:
            return _checker().check_coreml_partitions(proto, as_is, table)
        return _checker().check_nnapi_partitions(proto, as_is)

    def _placement(self, proto: onnx.ModelProto, found: Any) -> Placement:
        taken = {id(node) for group in found.supported_groups for node in group}
        nodes = []
        for node in _all_nodes(proto.graph):
            op = f"{node.domain}:{node.op_type}" if node.domain not in {"", "ai.onnx"} else node.op_type
            nodes.append(Node(self.lists.provider if id(node) in taken else CPU, op, node.name))
        return Placement(
            provider=self.lists.provider,
            nodes=tuple(nodes),
            partitions=found.num_partitions,
            reasons={node.op: _why(node.op, found) for node in nodes if node.provider == CPU},
        )


def _verdict(found: Any) -> Verdict:
    if not found.num_nodes:
        # All was folded into constants; of no nodes there is no share.
        return "no"
    verdict: Verdict = found.suitability().name.lower()
    return verdict


def _why(op: str, found: Any) -> str:
    full = op if ":" in op else f"ai.onnx:{op}"
    if full in found.unsupported_ops:
        return "the list lacks it"
    if full in found.ops_with_unsupported_rank:
        return "an input of more than five dimensions"
    return "the list has it, but here an input's shape is not fixed"


def best(forecasts: Sequence[Forecast]) -> Forecast:
    """The format that takes most nodes; of equals the first."""
    return max(forecasts, key=lambda each: each.placement.counts[each.placement.provider])


def _checker() -> Any:
    from onnxruntime.tools.mobile_helpers import usability_checker

    return usability_checker


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [each for node in graph.node for each in (node, *_inside(node))]


def _inside(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [each for attribute in node.attribute if attribute.HasField("g") for each in _all_nodes(attribute.g)]


def _optimized(path: Path) -> onnx.ModelProto:
    """As the converter to a phone's format would have it: basic optimizations, shapes inferred."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _FATAL
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        try:
            ort.InferenceSession(str(path), options, providers=[CPU])
            proto = onnx.load(str(optimized), load_external_data=False)
        except Exception as error:  # onnxruntime's errors share no base class
            raise ModelError(f"{path.name}: onnxruntime refuses the model: {first_line(error)}") from error
    inferred = onnx.shape_inference.infer_shapes(proto)
    if not inferred.graph.value_info:
        # No tensor lies between nodes, or none whose shape is known; onnxruntime's tool takes an empty list for an
        # inference that was never run.
        inferred.graph.value_info.extend(inferred.graph.output[:1])
    return inferred


__all__ = ["COREML", "NNAPI", "Forecast", "ForecastTarget", "best"]
