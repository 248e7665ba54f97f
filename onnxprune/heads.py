"""What each attention head does, beside how much it matters by every score: `onnxprune inspect --heads`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.dimensions import Dimension
from onnxprune.errors import DataError, Declined, MissingDependencyError, OnnxPruneError
from onnxprune.inputs import compare_inputs
from onnxprune.latency import Clock
from onnxprune.loss import few
from onnxprune.model import Model
from onnxprune.observer import observer
from onnxprune.padding import cropped
from onnxprune.passes import RemoveHeads
from onnxprune.protocol import Context
from onnxprune.removal import dimension_of, ranking
from onnxprune.removal.edits import weight_parts, weights_of
from onnxprune.removal.refitting import survey
from onnxprune.roles import padding_masks
from onnxprune.runtime import Feeds
from onnxprune.signature import read_signature
from onnxprune.sites import Site, find_sites
from onnxprune.solvers import scores
from onnxprune.solvers.attention_roles import Looks, Role, rarest_of
from onnxprune.structure import Structure
from onnxprune.subject import Subject, context_for, load_subject
from onnxprune.targets.target import parse_target

Array = np.ndarray[Any, Any]

# Scores by gradients that are shown beside the others, where torch is installed.
_BY_GRADIENTS: tuple[ranking.Score, ...] = ("michel", "taylor", "lrp")
SYNTACTIC = "syntactic roles: not assessed, they need parsed text"


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes:
        site: id of its attention.
        unit: its number there, or that of its key-value group.
        importance: by score, as a share of the site's total; the least goes first.
    """

    site: str
    unit: int
    role: Role
    importance: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The answer of `onnxprune inspect --heads`.

    Attributes:
        scores: names of the scores, in the order of the columns.
        notes: what was not assessed, and why.
    """

    path: Path
    source: str
    synthetic: bool
    samples: int
    scores: tuple[str, ...]
    heads: tuple[Head, ...]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "model": str(self.path),
            "data": {"source": self.source, "samples": self.samples, "synthetic": self.synthetic},
            "scores": list(self.scores),
            "heads": [
                {"site": head.site, "unit": head.unit, "role": head.role.name,
                 **{key: value for key, value in asdict(head.role).items() if key != "name"},
                 "importance": dict(head.importance)}
                for head in self.heads
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def heads(
    model: Path | str,
    *,
    data: str | None = None,
    mask: str | None = None,
    loss: str | None = None,
    seed: int = 0,
    allow_synthetic: bool = False,
) -> Heads:
    """Look at every head's attention maps on sample inputs, and rank it by every score.

    Args:
        model: the .onnx file.
        data: sample inputs as for `optimize`; at most 64 are looked at.
        mask: the input that is 0 at padded tokens; found by its name by default.
        loss: what gradients are taken of.
        seed: of random choices.
        allow_synthetic: look at made-up inputs.

    Raises:
        OnnxPruneError: the model or the data are at fault.
    """
    path = Path(model)
    if data is None and not allow_synthetic:
        raise DataError("inspect --heads needs sample inputs. Give --data, or --allow-synthetic for made-up ones.")
    subject = load_subject(path, data, {}, seed, loss, mask, allow_synthetic=allow_synthetic, most_judges=1)
    one: Any = RemoveHeads()
    clock = Clock(parse_target("cpu:1"))
    context = context_for(one, subject.model, subject.model, subject, clock, seed=seed)
    structure = context.structure
    if structure is None:
        raise Declined("the model's shapes were not observed")
    sites = [s for s in find_sites(subject.model, structure) if s.kind == "heads" and not s.grouped]
    notes = [SYNTACTIC]
    roles = dict(_roles(subject, structure, sites, notes))
    shares = _importance(subject, structure, sites, context, notes)
    return Heads(
        path=path,
        source=subject.samples.source,
        synthetic=subject.samples.synthetic,
        samples=len(few(subject.samples.calibration)),
        scores=tuple(shares),
        heads=tuple(
            Head(
                site.id,
                unit,
                roles[site.id][unit],
                {name: float(found[site.id][unit]) for name, found in shares.items()},
            )
            for site in sites
            for unit in range(site.units)
        ),
        notes=tuple(notes),
    )


def _roles(
    subject: Subject, structure: Structure, sites: Sequence[Site], notes: list[str]
) -> Iterator[tuple[str, list[Role]]]:
    """Each site's roles, by unit."""
    maps = {site.id: _map_of(subject.model, dimension_of(site, structure)) for site in sites}
    inside = "roles not assessed, its attention weights are inside a fused operator"
    notes += [f"{site.id}: {inside}" for site in sites if maps[site.id] is None]
    looks = {site.id: [Looks() for _ in range(site.units)] for site in sites}
    wanted = {found[0] for found in maps.values() if found is not None}
    feeds = few(subject.samples.calibration)
    if wanted:
        text = _Text(subject, feeds)
        observe = observer(subject.model, wanted)
        for given in feeds:
            short, tokens, counted = text.sample(given)
            values = observe(short)
            for site in sites:
                found = maps[site.id]
                if found is not None:
                    _look(looks[site.id], values[found[0]], found[1], found[2], tokens, counted, text)
    for site in sites:
        yield site.id, [one.result() for one in looks[site.id]]


def _look(
    looks: Sequence[Looks],
    value: Array,
    axis: int,
    elements: Array,
    tokens: Array | None,
    counted: Array | None,
    text: Any,
) -> None:
    """Count one sample's maps [batch, …, heads, …, queries, keys]."""
    # Heads first, then whatever else counts as batch, then queries and keys.
    moved = np.moveaxis(value, axis, 0)
    moved = moved.reshape(moved.shape[0], -1, *moved.shape[-2:])
    length = moved.shape[-1]
    real = counted if counted is not None and len(counted) == length else np.ones(length, np.bool_)
    rarest = None
    if tokens is not None and len(tokens) == length:
        rarest = rarest_of(tokens, real, text.counts)
    for unit, places in enumerate(elements):
        for head in places:
            for attention in moved[head]:
                looks[unit].add(attention, real, rarest)


class _Text:
    """Tokens of samples: which are real, which separate, how frequent each is."""

    def __init__(self, subject: Subject, feeds: Sequence[Feeds]) -> None:
        ports = subject.session.inputs
        masks = padding_masks(ports)
        self._ports = ports
        self._mask = subject.mask or (masks[0].name if masks else None)
        roles = {one.name: one.role for one in read_signature(subject.model, subject.session).inputs}
        self._tokens = next((port.name for port in ports if roles.get(port.name) == "token"), None)
        self.counts: Counter[int] = Counter()
        self._separators: set[int] = set()
        rows = [self._row(given) for given in feeds]
        known = [(tokens, real) for tokens, real in rows if tokens is not None]
        for tokens, real in known:
            self.counts.update(int(token) for token in tokens[real])
        # A token that begins, or ends, every sample says nothing: what separates sentences.
        for at in (0, -1):
            ends = {int(tokens[real][at]) for tokens, real in known if real.any()}
            if len(ends) == 1 and len(known) > 1:
                self._separators |= ends

    def _row(self, given: Feeds) -> tuple[Array | None, Array]:
        """(tokens, which are real) of a sample's first row."""
        tokens = None if self._tokens is None else np.asarray(given[self._tokens])
        row = tokens[0] if tokens is not None and tokens.ndim == 2 else None
        mask = None if self._mask is None else np.asarray(given[self._mask])
        if mask is not None and mask.ndim == 2:
            return row, mask[0] != 0
        return row, np.ones(len(row) if row is not None else 0, np.bool_)

    def sample(self, given: Feeds) -> tuple[Feeds, Array | None, Array | None]:
        """(the sample without its padded tail, its tokens, which of them count)."""
        short = cropped(given, self._mask, self._ports) if self._mask is not None else None
        feeds = short or given
        tokens, real = self._row(feeds)
        if tokens is None:
            return feeds, None, real if len(real) else None
        return feeds, tokens, real & ~np.isin(tokens, list(self._separators))


def _map_of(model: Model, dimension: Dimension) -> tuple[str, int, Array] | None:
    """(tensor, axis of heads, elements [units, k]) of the attention weights."""
    members = {member.tensor: member for member in dimension.members if not member.constant}
    for node in model.graph.nodes:
        if node.op == "Softmax" and node.outputs[0].name in members:
            member = members[node.outputs[0].name]
            return member.tensor, member.axis, np.asarray(member.elements)
    return None


def _importance(
    subject: Subject, structure: Structure, sites: Sequence[Site], context: Context, notes: list[str]
) -> dict[str, dict[str, Array]]:
    """By score and site: [units], as shares of the site's total."""
    found: dict[str, dict[str, Array]] = {}
    held = weights_of(subject.model.graph)
    samples = few(subject.samples.calibration)
    for site in sites:
        dimension = dimension_of(site, structure)
        found.setdefault("magnitude", {})[site.id] = scores.magnitude(weight_parts(held, dimension), dimension.units)
        try:
            around = survey(
                subject.model, subject.model, dimension,
                lambda current, original, sources: compare_inputs(
                    current, original, sources, samples, mask=subject.mask
                ),
            )  # fmt: skip
        except Declined as reason:
            notes.append(f"{site.id}: scores by inputs not assessed: {reason}")
            continue
        for name, score in ranking.BY_INPUTS.items():
            found.setdefault(name, {})[site.id] = score(around.layers, around.inputs)
    for name in _BY_GRADIENTS:
        try:
            if context.gradients is None or not sites:
                break
            gradients = context.gradients(f"score={name}")
            dimensions = [dimension_of(site, structure) for site in sites]
            graded = ranking.by_gradients(name, gradients, subject.model, dimensions, "sum")
            found[name] = {site.id: score for site, score in zip(sites, graded, strict=True)}
        except MissingDependencyError as missing:
            notes.append(str(missing))
            break
        except (Declined, OnnxPruneError) as reason:
            notes.append(f"score {name} not assessed: {reason}")
    whole = {name: by_site for name, by_site in found.items() if len(by_site) == len(sites)}
    return {
        name: {site: _shares(values) for site, values in by_site.items()} for name, by_site in sorted(whole.items())
    }


def _shares(values: Array) -> Array:
    total = float(np.sum(values))
    return np.asarray(values / total if total > 0 else np.full(len(values), 1 / max(1, len(values))))
