"""What is in a model: sites, parameters, multiply-accumulates, and what cannot be cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.cost import is_weight, macs
from onnxprune.errors import ModelError
from onnxprune.graph import constants, elements
from onnxprune.model import load
from onnxprune.runtime import Port, observe_shapes, open_session
from onnxprune.sites import GRAPH, Site, find_sites
from onnxprune.synthetic import parse_shapes, synthesise


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The answer of `onnxprune inspect`."""

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: dict[str, int]
    params: int
    macs: int | None
    sites: tuple[Site, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """DESIGN section 6; the keys are stable."""
        return {
            "inputs": [_port(port) for port in self.inputs],
            "outputs": [_port(port) for port in self.outputs],
            "opset": self.opset,
            "params": self.params,
            "macs": self.macs,
            "sites": [asdict(site) | {"shared_by": site.shared_by} for site in self.sites],
            "notes": list(self.notes),
        }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": None if port.dtype is None else str(port.dtype), "shape": list(port.shape)}


def inspect(model: Path | str, *, shape: tuple[str, ...] = ()) -> Inspection:
    """Look into a model without changing it.

    Raises:
        ModelError: the file is no model, or onnxruntime refuses it.
    """
    path = Path(model)
    loaded = load(path)
    session = open_session(path)
    notes = list(loaded.notes)
    work: int | None = None
    try:
        feeds = synthesise(loaded, session, shapes=parse_shapes(shape) or None).feeds[0]
        work = macs(loaded, {name: runs[0] for name, runs in observe_shapes(loaded, [feeds]).items()})
        notes.append(
            "MACs are for " + ", ".join(f"{name}={'x'.join(map(str, value.shape))}" for name, value in feeds.items())
        )
    except ModelError as error:
        notes.append(f"MACs unknown: {error}")
    return Inspection(
        path=path,
        inputs=session.inputs,
        outputs=session.outputs,
        opset={entry.domain or "ai.onnx": entry.version for entry in loaded.graph.import_domains},
        params=sum(elements(tensor) for tensor in constants(loaded.graph) if is_weight(tensor)),
        macs=work,
        sites=tuple(site for site in find_sites(loaded) if site.id != GRAPH),
        notes=tuple(notes),
    )
