"""What is in a model: sites, parameters, multiply-accumulates, dead units, and what cannot be cut and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.cost import macs
from onnxprune.dead import DeadUnits
from onnxprune.dimensions import Pin
from onnxprune.errors import ModelError
from onnxprune.memory import job_memory, read_limit
from onnxprune.model import Model, load, size_on_disk
from onnxprune.packing import unpacked
from onnxprune.passes.simplify import Simplify
from onnxprune.protocol import Context
from onnxprune.runtime import Feeds, Port, Session, observe, observe_shapes, open_session
from onnxprune.sites import GRAPH, Site, find_sites
from onnxprune.storage import Stored, stored_weights
from onnxprune.structure import Structure, read_structure
from onnxprune.synthetic import parse_shapes, probes, synthesise
from onnxprune.targets.settings import setting_of


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The answer of `onnxprune inspect`.

    Attributes:
        sites: of the model once it is simplified, as `optimize` names them.
        dead_units: how many units of a site carry nothing; heads, neurons and channels only.
        pinned: axes of weights that cannot be cut.
        weights: how each is stored in the file.
    """

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: dict[str, int]
    params: int
    macs: int | None
    sites: tuple[Site, ...]
    dead_units: Mapping[str, int]
    pinned: tuple[Pin, ...]
    weights: tuple[Stored, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """DESIGN section 6; the keys are stable."""
        return {
            "inputs": [_port(port) for port in self.inputs],
            "outputs": [_port(port) for port in self.outputs],
            "opset": self.opset,
            "params": self.params,
            "macs": self.macs,
            "sites": [self._site(site) for site in self.sites],
            "pinned": [{"tensor": pin.tensor, "axis": pin.axis, "why": pin.why} for pin in self.pinned],
            "weights": [weight.to_json() for weight in self.weights],
            "notes": list(self.notes),
        }

    def _site(self, site: Site) -> dict[str, Any]:
        return {
            "id": site.id,
            "kind": site.kind,
            "units": site.units,
            "original_units": site.original_units,
            "unit_size": site.unit_size,
            "params": site.params,
            "dead_units": self.dead_units.get(site.id),
            "shared_by": site.shared_by,
            "operator": site.operator,
            "weight": site.weight,
            "pinned": site.pinned,
        }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": None if port.dtype is None else str(port.dtype), "shape": list(port.shape)}


def inspect(model: Path | str, *, shape: tuple[str, ...] = (), max_memory: str | int | None = None) -> Inspection:
    """Look into a model without changing it.

    Args:
        model: the .onnx file.
        shape: `NAME=1x128`, what multiply-accumulates are counted on.
        max_memory: as for `optimize`.

    Raises:
        ModelError: the file is no model, or onnxruntime refuses it.
    """
    path = Path(model)
    sizes = parse_shapes(shape)
    with job_memory(read_limit(max_memory), size_on_disk(path)):
        return _inspected(path, sizes)


def _inspected(path: Path, sizes: Mapping[str, tuple[int, ...]]) -> Inspection:
    held = load(path)
    weights = stored_weights(held)
    loaded, _ = unpacked(held)
    session = open_session(path)
    notes = list(loaded.notes)
    if (setting := setting_of(loaded.metadata)) is not None:
        notes.append(f"session settings recommended: {setting}")
    simple = _simplified(loaded)
    work: int | None = None
    structure: Structure | None = None
    sites, dead = find_sites(simple), dict[str, int]()
    try:
        feeds = synthesise(loaded, session, shapes=sizes or None).feeds[0]
        work = macs(simple, {name: runs[0] for name, runs in observe_shapes(simple, [feeds]).items()})
        notes.append(
            "MACs are for " + ", ".join(f"{name}={'x'.join(map(str, value.shape))}" for name, value in feeds.items())
        )
        structure, sites, dead = _look(simple, session, feeds)
    except ModelError as error:
        unknown = "heads, neurons, channels and blocks"
        notes.append(f"{unknown if work is not None else f'MACs, {unknown}'} unknown: {error}")
    return Inspection(
        path=path,
        inputs=session.inputs,
        outputs=session.outputs,
        opset={entry.domain or "ai.onnx": entry.version for entry in loaded.graph.import_domains},
        params=sum(weight.numbers for weight in weights),
        macs=work,
        sites=tuple(site for site in sites if site.id != GRAPH),
        dead_units=dead,
        pinned=structure.dimensions.pinned if structure is not None else (),
        weights=weights,
        notes=tuple(notes),
    )


def _simplified(model: Model) -> Model:
    one = Simplify()
    return one.apply(model, one.propose(model, (), Context()).edits)[0]


def _look(model: Model, session: Session, feeds: Feeds) -> tuple[Structure, tuple[Site, ...], dict[str, int]]:
    """What can be cut, and how much of it is dead."""
    others = probes(model, session, feeds)
    structure = read_structure(model, observe_shapes(model, others))
    sites = find_sites(model, structure)
    finder = DeadUnits(model, structure, lambda names: observe(model, others[0], names))
    dead = {
        site.id: finder.of(structure.dimensions.all[site.dimension]).count
        for site in sites
        if site.dimension is not None
    }
    return structure, sites, dead
