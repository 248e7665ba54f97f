"""Which tensors of a cut model stand for which of the original: the streams behind its residual blocks, by site."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.model import Model
from onnxprune.runtime import Feeds, observe_shapes
from onnxprune.sites import Site, find_sites
from onnxprune.structure import Shapes, read_structure


@dataclass(frozen=True)
class Pairing:
    """A hidden state that both models have.

    Attributes:
        site: id of the block behind which it stands.
        teacher: its tensor in the original.
        student: its tensor in the cut model.
        features: the axis of its features, from the back; 1 where it is an image.
    """

    site: str
    teacher: str
    student: str
    features: int = -1


def match_blocks(teacher: Model, student: Model, probes: tuple[Feeds, ...] | list[Feeds]) -> tuple[Pairing, ...]:
    """Outputs of residual blocks that both models have, by their sites' ids, of one shape in every probe.

    A cut model remembers its sites, so that ids are those of the original even where blocks are gone.
    """
    of_teacher, of_student = observe_shapes(teacher, probes), observe_shapes(student, probes)
    theirs, mine = _blocks(teacher, of_teacher), _blocks(student, of_student)
    # Names survive cuts; an id that was given anew to another block does not count.
    by_name = {site.anchor: site for site in mine.values()}
    pairs = []
    for name, site in theirs.items():
        own = by_name.get(site.anchor) or (mine.get(name) if len(mine) == len(theirs) else None)
        if own is None or of_teacher.get(site.anchor) != of_student.get(own.anchor):
            continue
        pairs.append(Pairing(name, site.anchor, own.anchor, 1 if site.operator == "convolution" else -1))
    return tuple(pairs)


def _blocks(model: Model, shapes: Shapes) -> dict[str, Site]:
    return {site.id: site for site in find_sites(model, read_structure(model, shapes)) if site.kind == "block"}
