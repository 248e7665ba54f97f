"""Replace linears by products of low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from onnxprune import spec
from onnxprune.calibration import Needs
from onnxprune.errors import DataError, Declined, OptionError
from onnxprune.factoring import Goal, Method, Pair, Solver, factors_in_turn, groups, numbers_apart, numbers_of
from onnxprune.linears import Linear, linear_of, look
from onnxprune.low_rank import LowRankWriter, carried_out, matrix_of
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Level, Proposal
from onnxprune.ranges import at_least, check_ranges, within
from onnxprune.sites import Site, refuse_unknown, registered
from onnxprune.solvers.lowrank import Factors
from onnxprune.solvers.taylor import WeightGradient
from onnxprune.weights import Weight, find_weights

Array = np.ndarray[Any, Any]

# Of tokens with huge activations one direction alone may hold .95 of the energy.
DEFAULT_ENERGY = 0.99
# A pair must take at most this share of the time: less of a gain is within the noise of a short timing.
_FASTER = 0.97


@dataclass(frozen=True, kw_only=True)
class FactorLinear:
    """Replace linears and 1x1 convolutions by two products of low rank, and refit the bias to keep the mean.

    Attributes:
        method: `svd-llm` keeps most of the outputs on the sample inputs, `asvd` spares the rows of large inputs (both
            need sample inputs), `fwsvd` spares the rows that the loss is sensitive to (gradients, needs torch, too),
            `svd` looks at weights alone.
        energy: the least share of the output's energy, as the method weighs it, in (0, 1]; the default, at 0.99.
        ratio: instead, the share of each linear's numbers, in [0, 1).
        rank: instead, the rank; at 0 only a bias stays.
        joint: linears of one input (Q, K and V; gate and up) get one left factor where that takes fewer numbers for the
            energy, or misses less in the ratio.
        faster: a pair stays only if it is measured faster on the target; where nothing is timed, it does less work.
        int8: measure both forms as integer products, for plans in which `sparse-int8` follows.
        sites: act on these sites only; all linears by default.
        levels: the rank of each of these linears, as `SITE/RANK`, joined by `+`; all others are left alone, none
            is timed and none shares a factor.
    """

    name: ClassVar[str] = "factor-linear"
    lossless: ClassVar[bool] = False
    method: Method = "svd-llm"
    energy: Annotated[float | None, within("(0, 1]")] = None
    ratio: Annotated[float | None, within("[0, 1)")] = None
    rank: Annotated[int | None, at_least(0)] = None
    joint: bool = True
    faster: bool = True
    int8: bool = False
    sites: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject several goals, and goals that no pair meets."""
        given = [name for name in ("energy", "ratio", "rank") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"{self.name}: one of energy, ratio and rank is the goal, got {' and '.join(given)}.")
        check_ranges(self, self.name)
        if given and self.levels:
            raise OptionError(f"{self.name}: levels state each site's rank, {given[0]} all sites'. Give one of them.")
        self.ranks()

    def ranks(self) -> dict[str, int]:
        """The ranks of option `levels`, by site."""
        return spec.by_site(f"{self.name}: levels", self.levels, "RANK", 0)

    @property
    def goal(self) -> Goal:
        """What was asked; the default energy where nothing was."""
        if self.ratio is None and self.rank is None:
            return Goal(energy=DEFAULT_ENERGY if self.energy is None else self.energy)
        return Goal(ratio=self.ratio, rank=self.rank)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Means of what linears take in, for their biases; second moments for `svd-llm`."""
        linears, _ = self._linears(model, sites)
        sources = {source for linear in linears for source in linear.sources}
        names = frozenset(source.tensor for source in sources if source.patches is None)
        return Needs(grams=names) if self.method == "svd-llm" else Needs(columns=names)

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a pair; one for several linears that share a left factor."""
        linears, skips = self._linears(model, sites)
        blind = context.statistics is None and context.compare_inputs is None
        if linears and blind and self.method != "svd":
            raise DataError(
                f"{self.name}: method={self.method} needs sample inputs. Give --data, or method=svd, or "
                "--allow-synthetic to calibrate on made-up ones."
            )
        if self.method == "fwsvd" and linears and context.gradients is not None:
            found = context.gradients(f"method={self.method}").weights(model)
            linears = [_with_fisher(linear, found) for linear in linears]
        seen = look(model, linears, context)
        edits = []
        ranks = self.ranks()
        grouped = groups(linears, joint=self.joint and not ranks)
        in_turn = [linear for group in grouped for linear in group]
        alone = factors_in_turn(self.method, in_turn, seen, context.progress)
        for group in grouped:
            goal = Goal(rank=ranks[group[0].site.id]) if ranks else self.goal
            solver = Solver(self.method, goal, model, seen)
            pairs, left_alone = self._pairs(group, solver, alone, context)
            edits += [self._edit(pair, words) for pair, words in pairs]
            skips += left_alone
        order = {site.id: at for at, site in enumerate(sites)}
        edits.sort(key=lambda edit: order[edit.site])
        return Proposal(tuple(edits), tuple(sorted(skips, key=lambda skip: order[skip.site])))

    def _linears(self, model: Model, sites: Sequence[Site]) -> tuple[list[Linear], list[Skip]]:
        own = [site for site in sites if site.kind == "linear"]
        refuse_unknown(self.name, {*self.sites, *self.ranks()}, own, registered(model))
        weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
        linears = []
        option = "sites" if self.sites else "levels"
        skips = [Skip(site=site.id, why=f"not among option {option}") for site in own if self._passes_over(site)]
        for site in own:
            if self._passes_over(site):
                continue
            try:
                linears.append(linear_of(site, weights[site.weight], model))
            except Declined as reason:
                skips.append(Skip(site=site.id, why=str(reason)))
        return linears, skips

    def _passes_over(self, site: Site) -> bool:
        named = {*self.sites, *self.ranks()}
        return bool(named) and site.id not in named

    def _pairs(
        self, group: Sequence[Linear], solver: Solver, alone: Iterator[Callable[[], Factors]], context: Context
    ) -> tuple[list[tuple[Pair, str]], list[Skip]]:
        """Pairs of linears that read the same input, each with what its timing was; and the linears left alone."""
        factors: dict[str, Factors] = {}
        costs = {linear.weight.constant.name: numbers_apart(linear) for linear in group}
        pairs, skips = [], []
        for linear in group:
            answer = next(alone)
            try:
                found = answer()
                pair = solver.alone(linear, found)
            except Declined as reason:
                skips.append(Skip(site=linear.site.id, why=str(reason)))
                continue
            factors[linear.weight.constant.name] = found
            pairs.append(pair)
            costs[linear.weight.constant.name] = numbers_of(pair)
        if len(group) > 1 and len(factors) == len(group):
            shared = solver.together(group, factors, costs)
            if shared is not None:
                try:
                    return [(shared, self._timing(shared, context))], []
                except Declined:
                    # Not faster together: each alone then.
                    pass
        kept = []
        for pair in pairs:
            try:
                kept.append((pair, self._timing(pair, context)))
            except Declined as reason:
                skips.append(Skip(site=pair.linears[0].site.id, why=str(reason)))
        return kept, skips

    def _timing(self, pair: Pair, context: Context) -> str:
        """What the clock says, for the report.

        Raises:
            Declined: the pair is not faster.
        """
        if not self.faster or self.levels or pair.rank == 0:
            return ""
        if context.latency is None:
            return "not timed, less work"
        site = pair.linears[0].site
        columns = pair.columns if len(pair.linears) > 1 else None
        before = context.latency(site, Level(form="int8" if self.int8 else "float", columns=columns))
        after = context.latency(site, Level(form="int8-pair" if self.int8 else "pair", rank=pair.rank, columns=columns))
        if after > _FASTER * before:
            raise Declined(f"rank {pair.rank} is not faster: {after:.3f} ms, {before:.3f} ms as it is")
        return f"{before:.3f} to {after:.3f} ms"

    def _edit(self, pair: Pair, timing: str) -> Edit:
        first = pair.linears[0]
        dtype = first.weight.constant.dtype
        tensors: dict[str, Array] = {"left": pair.left.astype(dtype), "right": pair.right.astype(dtype)}
        if pair.gains is not None:
            # What is too large for the type breaks the model, and is taken back for it.
            with np.errstate(over="ignore"):
                tensors["bias"] = pair.gains.astype(dtype)
        weights = [linear.weight.constant.name for linear in pair.linears]
        return Edit(
            id=f"{self.name}.{first.site.id}",
            pass_name=self.name,
            site=first.site.id,
            kind="factor",
            args={"weights": weights, "sites": [linear.site.id for linear in pair.linears], "timing": timing},
            tensors=tensors,
        )

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with pairs in place of its linears, remembering which constants are factors."""
        return carried_out(model, edits, _write)


def _write(writer: LowRankWriter, edit: Edit, weights: Mapping[str, Weight]) -> tuple[Change, list[str]]:
    left, right, biases = edit.tensors["left"], edit.tensors["right"], edit.tensors.get("bias")
    held = _fitting(edit, weights)
    widths = [matrix_of(weight).shape[1] for weight in held]
    places = np.cumsum([0, *widths])
    what = f"{left.shape[0]}x{places[-1]} as rank {left.shape[1]}"
    shared, names = None, []
    if len(held) > 1:
        shared = writer.constant(f"{held[0].constant.name}.left", left)
        names.append(shared.name)
        what += f", one left factor for {', '.join(edit.args['sites'])}"
    hidden = None if shared is None else writer.hidden(held[0].uses[0], shared)
    for at, weight in enumerate(held):
        part, name = slice(places[at], places[at + 1]), weight.constant.name
        for use in weight.uses:
            writer.touch(use, weight.constant)
        if not left.shape[1]:
            for number, use in enumerate(weight.uses):
                gain = np.zeros(widths[at], left.dtype) if biases is None else biases[number, part]
                writer.fixed(use, gain, f"{name}.bias")
            continue
        lone = hidden if hidden is not None else writer.constant(f"{name}.left", _shaped(left, weight))
        other = writer.constant(f"{name}.right", _shaped(right[:, part], weight))
        names += [other.name] if hidden is not None else [lone.name, other.name]
        for number, use in enumerate(weight.uses):
            writer.pair(use, lone, other, None if biases is None else biases[number, part], f"{name}.bias")
    before, bytes_before, after, bytes_after = writer.costs()
    timing = edit.args.get("timing", "")
    change = Change(
        site=edit.site,
        what=f"{what} ({timing})" if timing else what,
        params_before=before,
        params_after=after,
        bytes_before=bytes_before,
        bytes_after=bytes_after,
    )
    return change, names


def _with_fisher(linear: Linear, found: Mapping[str, WeightGradient]) -> Linear:
    gradient = found.get(linear.weight.constant.name)
    return linear if gradient is None else replace(linear, fisher=matrix_of(linear.weight, gradient.square))


def _shaped(factor: Array, weight: Weight) -> Array:
    """A factor [k, n] as its operator reads it: of a convolution [n, k, 1, …]."""
    if weight.uses[0].role != "conv":
        return factor
    return factor.T.reshape(*factor.shape[::-1], *(1,) * (len(weight.constant.shape) - 2))


def _fitting(edit: Edit, weights: Mapping[str, Weight]) -> list[Weight]:
    """The edit's weights.

    Raises:
        Declined: one is missing, or the factors do not fit.
    """
    held = []
    for name in edit.args["weights"]:
        if name not in weights:
            raise Declined(f"{edit.site}: the model has no weight {name!r}")
        held.append(weights[name])
    shapes = [matrix_of(weight).shape for weight in held]
    expected = (shapes[0][0], sum(n for _, n in shapes))
    left, right, biases = edit.tensors["left"], edit.tensors["right"], edit.tensors.get("bias")
    whole = (left.shape[0], right.shape[-1])
    readers = len(held[0].uses)
    if (
        left.ndim != 2 or right.ndim != 2 or whole != expected or left.shape[1] != right.shape[0]
        or any(k != expected[0] for k, _ in shapes)
        or (biases is not None and biases.shape != (readers, expected[1]))
        or {left.dtype, right.dtype} != {np.dtype(held[0].constant.dtype)}
    ):  # fmt: skip
        shapes_found = f"{list(left.shape)} and {list(right.shape)}"
        raise Declined(f"{edit.site}: factors {shapes_found} do not fit {held[0].constant.name!r}")
    return held
