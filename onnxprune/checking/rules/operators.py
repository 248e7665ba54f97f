"""Operators, their versions and domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.checking.rules.naming import described
from onnxprune.graph import numbers, walk
from onnxprune.runtime import operators

_STANDARD = {"", "ai.onnx"}
# Older models load, but int8 per channel, and what passes write, need more.
_OLD = 13
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


@rule(
    "unsupported-opset", "error", needs="file", do="Export with a lower opset, or convert with onnx.version_converter."
)
def unsupported_opset(case: Case) -> Iterator[Spot]:
    """An opset or the file's format is newer than the installed onnxruntime or onnx knows."""
    proto = case.raw.proto
    newest = {domain: max(versions) for domain, versions in _versions().items()}
    for entry in proto.opset_import:
        domain = "" if entry.domain in _STANDARD else entry.domain
        if domain in newest and entry.version > newest[domain]:
            yield Spot(
                f"opset {domain or 'ai.onnx'} {entry.version}", f"the installed onnxruntime ends at {newest[domain]}"
            )
        if entry.version < 1:
            yield Spot(f"opset {domain or 'ai.onnx'} {entry.version}", "opsets begin at 1")
    if proto.ir_version > onnx.IR_VERSION:
        yield Spot(f"IR version {proto.ir_version}", f"the installed onnx ends at {onnx.IR_VERSION}")


@rule(
    "old-opset",
    "note",
    needs="file",
    do="Export with opset 17 or later: int8 per channel needs 13, LayerNormalization 17.",
)
def old_opset(case: Case) -> Iterator[Spot]:
    """The opset is older than what int8 per channel needs."""
    for entry in case.raw.proto.opset_import:
        if entry.domain in _STANDARD and entry.version < _OLD:
            yield Spot(f"opset ai.onnx {entry.version}", f"is older than {_OLD}")


@rule(
    "unknown-domain",
    "error",
    needs="file",
    do="Register the library that has these operators, inline local functions, or export with standard ones.",
)
def unknown_domain(case: Case) -> Iterator[Spot]:
    """Nodes belong to a domain that neither onnxruntime nor the file itself defines."""
    known = {*_versions(), *_STANDARD, *(function.domain for function in case.raw.proto.functions)}
    for domain, nodes in _by_domain(case).items():
        if domain not in known:
            yield Spot(f"domain {domain!r}", f"{len(nodes)} nodes, the first {described(nodes[0])}")


@rule("missing-opset-import", "error", needs="file", do="Add the domain to the model's opset_import.")
def missing_opset_import(case: Case) -> Iterator[Spot]:
    """Nodes belong to a domain of which the file names no version."""
    proto = case.raw.proto
    imported = {"" if entry.domain in _STANDARD else entry.domain for entry in proto.opset_import}
    for domain, nodes in _by_domain(case).items():
        if domain not in imported:
            yield Spot(f"domain {domain or 'ai.onnx'!r}", f"{len(nodes)} nodes, the first {described(nodes[0])}")


@rule(
    "unknown-operator",
    "error",
    needs="file",
    do="Spell it as the operator's schema does, or raise the opset to the one that brought it.",
)
def unknown_operator(case: Case) -> Iterator[Spot]:
    """An operator does not exist in its domain at the opset that the file names."""
    proto = case.raw.proto
    opsets = {"" if entry.domain in _STANDARD else entry.domain: entry.version for entry in proto.opset_import}
    own = {(function.domain, function.name) for function in proto.functions}
    schemas, domains = operators(), _versions()
    for domain, nodes in _by_domain(case).items():
        for op, count in Counter(node.op_type for node in nodes).items():
            since = schemas.get((domain, op), ())
            if (
                (domain, op) in own
                or domain not in domains
                or min(since, default=10**9) <= opsets.get(domain, 10**9 - 1)
            ):
                continue
            why = f"came with opset {min(since)}, the file has {opsets[domain]}" if since else "no such operator"
            yield Spot(f"operator {op}", f"{count} nodes: {why}")


@rule(
    "training-mode",
    "warning",
    needs="graph",
    do="Export with model.eval(): in training mode outputs differ from run to run or from batch to batch.",
)
def training_mode(case: Case) -> Iterator[Spot]:
    """Dropout or BatchNormalization is in training mode."""
    for _, node in walk(case.model.graph):
        flag = node.inputs[2] if node.op == "Dropout" and len(node.inputs) > 2 else None
        on = isinstance(flag, gs.Constant) and bool(numbers(flag).any())
        if not node.domain and (on or (node.op == "BatchNormalization" and node.attrs.get("training_mode"))):
            yield Spot(f"{node.op} {node.name!r}", "is in training mode")


@rule("random-operator", "note", needs="graph", do="Make noise an input where answers must repeat.")
def random_operator(case: Case) -> Iterator[Spot]:
    """Outputs depend on random numbers drawn inside the graph."""
    for _, node in walk(case.model.graph):
        if node.op in _RANDOM and not node.domain:
            yield Spot(f"{node.op} {node.name!r}", "draws random numbers")


@rule(
    "runtime-operators",
    "note",
    needs="file",
    do="Keep a file of standard operators beside it for other runtimes and converters.",
)
def runtime_operators(case: Case) -> Iterator[Spot]:
    """Operators of onnxruntime's own run nowhere else."""
    for domain, nodes in _by_domain(case).items():
        if domain.startswith("com.m"):
            kinds = ", ".join(sorted({node.op_type for node in nodes})[:5])
            yield Spot(f"domain {domain!r}", f"{len(nodes)} nodes: {kinds}")


@rule(
    "no-op",
    "note",
    needs="graph",
    do="Drop them: onnxprune optimize MODEL --pass simplify does; onnxruntime drops most of them at each load.",
)
def no_op(case: Case) -> Iterator[Spot]:
    """Nodes hand on what they get."""
    from onnxprune.passes.simplify import does_nothing

    kinds = Counter(node.op for _, node in walk(case.model.graph) if does_nothing(node))
    for op, count in sorted(kinds.items()):
        yield Spot(f"operator {op}", f"{count} nodes change nothing")


def _by_domain(case: Case) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for _, graph in case.raw.graphs():
        for node in graph.node:
            found.setdefault("" if node.domain in _STANDARD else node.domain, []).append(node)
    return found


def _versions() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for (domain, _), since in operators().items():
        found.setdefault(domain, set()).update(since)
    return found


RULES = (
    unsupported_opset,
    old_opset,
    unknown_domain,
    missing_opset_import,
    unknown_operator,
    training_mode,
    random_operator,
    runtime_operators,
    no_op,
)
