"""A model as an older runtime can read it, or the true reason why it cannot."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxprune.errors import TargetError
from onnxprune.model import data_files

# Beyond this, protobuf cannot hold a model in one message.
_MAX_BYTES = 2**31 - 1
_ONNX_DOMAINS = {"", "ai.onnx"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a runtime can read.

    Attributes:
        runtime: name and version, for messages.
        ir: newest file format version.
        opset: newest version of the default domain.
        domains: other domains whose operators it has.
        external: whether it reads weights outside the model's file.
        biased: whether it crashes on a Gemm without a bias, as the XNNPACK provider of onnxruntime 1.21 does.
    """

    runtime: str
    ir: int
    opset: int
    domains: frozenset[str] = frozenset({"ai.onnx.ml", "com.microsoft"})
    external: bool = True
    biased: bool = False


def adapt(target: str, path: Path, limits: Limits, folder: Path) -> Path:
    """The model's own file where it fits the limits, else a copy in `folder` that does.

    The file format's version is lowered, opset imports that no node uses are dropped, and weights move into the file
    where the runtime wants them there; operators stay as they are.

    Raises:
        TargetError: an operator set, a domain or a tensor type is newer than the runtime.
    """
    proto = _readable(target, path, limits)
    functions = {function.domain for function in proto.functions}
    used = _domains(proto)
    _refuse_new_operators(target, path, proto, limits, used - functions)
    _refuse_new_types(target, path, proto, limits)
    if limits.biased:
        _refuse_bare_gemm(target, path, proto, limits)
    imports = [entry for entry in proto.opset_import if entry.domain in used | _ONNX_DOMAINS | functions]
    apart = data_files(path)
    if proto.ir_version <= limits.ir and len(imports) == len(proto.opset_import) and (limits.external or not apart):
        return path
    proto.ir_version = min(proto.ir_version, limits.ir)
    kept = [onnx.helper.make_opsetid(entry.domain, entry.version) for entry in imports]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    if not limits.external:
        onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
        apart = ()
    if proto.ByteSize() > _MAX_BYTES:
        raise _too_large(target, path)
    adapted = folder / path.name
    adapted.parent.mkdir(parents=True, exist_ok=True)
    adapted.write_bytes(proto.SerializeToString())
    for data in apart:
        place = adapted.parent / data.relative_to(path.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not a link: onnx and onnxruntime take links for an attack.
        shutil.copyfile(data, place)
    return adapted


def _readable(target: str, path: Path, limits: Limits) -> onnx.ModelProto:
    if path.suffix == ".ort":
        raise TargetError(
            f"{path.name}: {target} ({limits.runtime}) is given .onnx files, not .ort of another version."
        )
    if path.stat().st_size > _MAX_BYTES:
        raise _too_large(target, path)
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors share no base class
        raise TargetError(f"{path.name}: not an ONNX model, or damaged. Export it anew.") from error


def _too_large(target: str, path: Path) -> TargetError:
    return TargetError(f"{path.name}: {target} is not given models beyond 2 GB. Use the target cpu.")


def _refuse_new_operators(target: str, path: Path, proto: onnx.ModelProto, limits: Limits, domains: set[str]) -> None:
    opset = max((entry.version for entry in proto.opset_import if entry.domain in _ONNX_DOMAINS), default=1)
    if opset > limits.opset:
        raise TargetError(
            f"{path.name}: opset {opset}, and {target} ({limits.runtime}) runs up to {limits.opset}. "
            f"Export the model with opset {limits.opset} or older."
        )
    unknown = domains - _ONNX_DOMAINS - limits.domains
    if unknown:
        raise TargetError(f"{path.name}: {target} ({limits.runtime}) has no operators of {', '.join(sorted(unknown))}.")


def _refuse_bare_gemm(target: str, path: Path, proto: onnx.ModelProto, limits: Limits) -> None:
    for node in proto.graph.node:
        if node.op_type == "Gemm" and not any(node.input[2:]):
            raise TargetError(
                f"{path.name}: Gemm {node.name or node.output[0]!r} has no bias, and {target} ({limits.runtime}) "
                "crashes on such a one. Write a MatMul instead, or give it a bias of zeros."
            )


def _domains(proto: onnx.ModelProto) -> set[str]:
    found: set[str] = set()
    stack = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while stack:
        node = stack.pop()
        found.add(node.domain)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                stack.extend(graph.node)
    return found


def _refuse_new_types(target: str, path: Path, proto: onnx.ModelProto, limits: Limits) -> None:
    """4-bit integers came with IR 10, 4-bit floats with IR 11; lowering the number does not teach them."""
    since = {"UINT4": 10, "INT4": 10, "FLOAT4E2M1": 11, "FLOAT8E8M0": 12, "UINT2": 13, "INT2": 13}
    for tensor in proto.graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        if since.get(name, 0) > limits.ir:
            raise TargetError(
                f"{path.name}: weight {tensor.name!r} is {name}, which {limits.runtime} of {target} lacks."
            )
