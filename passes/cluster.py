"""Share few numbers among all of a weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from onnxprune.calibration import Needs
from onnxprune.clustering import Clustered, Codes, cluster, codes_of, seen_in_turn, write_clustered
from onnxprune.errors import DataError, Declined
from onnxprune.graph import stored_bytes
from onnxprune.model import Model
from onnxprune.packing import PackWriter
from onnxprune.plan import Change, Edit, Skip
from onnxprune.progress import Turn
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import check_ranges
from onnxprune.sharing import each
from onnxprune.sites import Site
from onnxprune.weights import Weight, find_weights

Array = np.ndarray[Any, Any]
Solver = Literal["auto", "joint", "round"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Let each weight hold few different numbers, found by k-means, and store which of them stands where.

    Zeros stay zeros, and zero is a number of its own where there are some. Products run in float: the file is
    smaller, a run is no faster. Rows of an embedding are decoded after they are looked up, other weights at load.

    Attributes:
        centroids: different numbers of a weight: 16 (half a byte each) or 256 (a byte).
        solver: `joint` makes up for each rounding by the inputs that are yet to come, `round` takes the nearest;
            both weigh errors by the second moments of inputs where there are samples; `auto` is joint where there are.
        embeddings: whether embedding tables share numbers, too.
    """

    name: ClassVar[str] = "cluster"
    lossless: ClassVar[bool] = False
    centroids: Literal[16, 256] = 16
    solver: Solver = "auto"
    embeddings: bool = True

    def __post_init__(self) -> None:
        """Reject values that no form stands for."""
        check_ranges(self, self.name)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing by name: second moments come weight by weight."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a weight."""
        if self.solver == "joint" and context.compare_inputs is None:
            raise DataError(
                f"{self.name}: solver=joint needs sample inputs. Give --data, or solver=round, or --allow-synthetic to "
                "calibrate on made-up ones."
            )
        weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
        edits: list[Edit] = []
        skips: list[Skip] = []
        own = {site.weight: site for site in sites if site.weight in weights}
        taken: list[Weight] = []
        for name, site in own.items():
            if not self.embeddings and any(use.role == "embedding" for use in weights[name].uses):
                skips.append(Skip(site=site.id, why="option embeddings=no"))
            else:
                taken.append(weights[name])
        begun: list[tuple[Site, str]] = []

        def in_turn() -> Iterator[Codes]:
            for weight, seen in seen_in_turn(taken, model, context):
                site = own[weight.constant.name]
                try:
                    codes = codes_of(weight, self.centroids, seen.gram, joint=self.solver != "round")
                except Declined as reason:
                    skips.append(Skip(site=site.id, why=str(reason)))
                    continue
                context.progress(Turn(f"cluster {weight.constant.name}", len(begun) + 1, len(taken), kind="cluster"))
                begun.append((site, seen.blind))
                yield codes

        for at, answer in enumerate(each(cluster, in_turn())):
            site, blind = begun[at]
            try:
                edits.append(self._edit(site, answer(), blind))
            except Declined as reason:
                skips.append(Skip(site=site.id, why=str(reason)))
        order = {site.id: at for at, site in enumerate(own.values())}
        return Proposal(tuple(sorted(edits, key=lambda edit: order[edit.site])), tuple(skips))

    def _edit(self, site: Site, found: Clustered, blind: str) -> Edit:
        args: dict[str, Any] = {"weight": site.weight}
        if blind:
            args["blind"] = blind
        return Edit(
            id=f"{self.name}.{site.id}",
            pass_name=self.name,
            site=site.id,
            kind="cluster",
            args=args,
            tensors={"symbols": found.symbols, "codebook": found.codebook},
        )

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with weights stored as the places of their numbers."""
        result = model.copy()
        weights = {weight.constant.name: weight for weight in find_weights(result.graph, result.overridable)}
        writer = PackWriter(result.graph)
        changes = []
        for edit in edits:
            weight = weights.get(edit.args["weight"])
            if weight is None:
                raise Declined(f"{edit.site}: the model has no weight {edit.args['weight']!r}")
            constant = weight.constant
            found = Clustered(edit.tensors["symbols"], edit.tensors["codebook"])
            already, before = writer.added_bytes, stored_bytes(constant)
            words = write_clustered(writer, weight, found, result.graph.opset)
            blind = f"; blind: {edit.args['blind']}" if edit.args.get("blind") else ""
            changes.append(
                Change(
                    site=edit.site,
                    what=f"{words}: {'x'.join(map(str, constant.shape))}, {len(found.codebook)} numbers{blind}",
                    params_before=found.symbols.size,
                    params_after=found.symbols.size,
                    bytes_before=before,
                    bytes_after=writer.added_bytes - already,
                )
            )
        writer.finish()
        return result, tuple(changes)
