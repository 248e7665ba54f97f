"""The integers and scales of one weight, from plain data: matrices, a recipe and what the inputs are like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.quantizing.matrices import Layout
from onnxprune.quantizing.portable import outputs_at_risk, widened
from onnxprune.quantizing.recipes import Recipe
from onnxprune.solvers import sparsegpt
from onnxprune.solvers.quantize import round_to_grid, searched_scale, symmetric_scale
from onnxprune.solvers.wanda import Blocks, blocks_mask, magnitude_scores, share_mask, wanda_scores

Array = np.ndarray[Any, Any]

# Of a table that are brought to double precision at a time.
_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Seen:
    """What the rows x that a weight's readers take in are like.

    Attributes:
        gram: [groups, k, k] E[xᵀx]; one group serves all.
        target: [groups, k, n] the weights whose outputs on these rows are nearest the original's.
        means: [k] each, E[x] and that of the original's rows, where a bias takes up the mean; `gram` is centred then.
    """

    gram: Array
    target: Array
    means: tuple[Array, Array] | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """A weight that is to become integers.

    Attributes:
        stored: its numbers.
        layout: of these as matrices.
        kept: axes that keep a scale of their own.
        halves: whether scales may be of half precision, where they fit.
        rows: whether rows alone are looked up, and each is rounded by itself.
        multiplied: whether it is multiplied with unsigned bytes.
        convolved: whether by a convolution.
        turned: whether its integers are wanted transposed.
    """

    stored: Array
    layout: Layout
    kept: tuple[int, ...]
    recipe: Recipe
    halves: bool = False
    rows: bool = False
    multiplied: bool = False
    convolved: bool = False
    turned: bool = False


@dataclass(frozen=True, eq=False)
class Rounded:
    """A solved weight.

    Attributes:
        integers: int8 of the stored shape, transposed where the problem says so.
        scale: the steps that they count; broadcasts against the stored shape, with blocks [k / block, n].
        seven: outputs that have 7 bits.
        gain: [n] what the bias behind it gains, so that the mean output stays; None where none does.
    """

    integers: Array
    scale: Array
    seven: int = 0
    gain: Array | None = None


def decoded(layout: Layout, block: int | None, solved: Rounded, *, turned: bool, dtype: np.dtype[Any]) -> Array:
    """What integers stand for, in the stored shape and type."""
    steps = layout.stored(_steps(layout, block, solved.scale).astype(np.float32))
    integers = solved.integers.T if turned else solved.integers
    values: Array = (integers * steps).astype(dtype)
    return values


def rounded(problem: Problem, seen: Seen | None = None) -> Rounded:
    """Integers of one weight.

    Args:
        problem: whose recipe, where it looks at inputs, needs `seen`.
        seen: what the inputs are like.
    """
    recipe, layout, stored = problem.recipe, problem.layout, problem.stored
    # A row's scale is looked up with the row; half precision halves its cost and is rounded before the weights.
    small = problem.halves and _fits_half(stored, problem.kept, recipe.largest)
    grid = _Grid(layout, problem.kept, recipe, np.dtype(np.float16 if small else np.float32))
    integers, scale = _rounded(grid, stored, seen, rows=problem.rows)
    seven = int(layout.size[0] * layout.size[2]) if recipe.seven else 0
    if recipe.portable and not recipe.block and problem.multiplied:
        risky = outputs_at_risk(layout, integers, convolved=problem.convolved)
        if risky is not None and not recipe.plain:
            return rounded(replace(problem, recipe=replace(recipe, seven=True, portable=False)), seen)
        if risky is not None:
            scale = widened(layout, risky, scale)
            integers = round_to_grid(stored, scale)
            seven = int(risky.sum())
    return Rounded(np.ascontiguousarray(integers.T) if problem.turned else integers, scale, seven)


def _rounded(grid: _Grid, stored: Array, seen: Seen | None, *, rows: bool) -> tuple[Array, Array]:
    """Integers, and the steps that they count, as the recipe has them."""
    if grid.recipe.plain:
        scale = symmetric_scale(stored, grid.kept, dtype=grid.dtype)
        return round_to_grid(stored, scale), scale
    return _rows(grid, stored) if rows else _solved(grid, stored, seen)


@dataclass(frozen=True)
class _Grid:
    """Where the scales of a weight lie, and how they are chosen."""

    layout: Layout
    kept: tuple[int, ...]
    recipe: Recipe
    dtype: np.dtype[Any]

    def scale(self, matrices: Array, importance: Array) -> Array:
        """Steps for values [groups, k, n]: they broadcast against the stored weight; with blocks [k / block, n].

        Eight bits reach the largest value. Fewer are spread where the squared error, weighed by `importance`
        [groups, k], is least.
        """
        values, kept = self.layout.stored(matrices), self.kept
        if self.recipe.block:
            values, kept = matrices.reshape(-1, self.recipe.block, matrices.shape[-1]), (0, 2)
        if self.recipe.bits == 8:
            scale = symmetric_scale(values, kept, largest=self.recipe.largest, dtype=self.dtype)
        else:
            whole = np.broadcast_to(importance[:, :, None], matrices.shape)
            weights = whole.reshape(values.shape) if self.recipe.block else self.layout.stored(whole)
            scale = searched_scale(values, weights, kept, largest=self.recipe.largest, dtype=self.dtype)
        return scale[:, 0] if self.recipe.block else scale

    def steps(self, scale: Array) -> Array:
        """[groups, k, n] of what `scale` gave."""
        return _steps(self.layout, self.recipe.block, scale)


def _steps(layout: Layout, block: int | None, scale: Array) -> Array:
    return np.repeat(scale, block, axis=0)[None] if block else layout.matrices(scale)


def _rows(grid: _Grid, table: Array) -> tuple[Array, Array]:
    """A table's integers and steps, some rows at a time: each row is rounded by itself."""
    parts = []
    for start in range(0, len(table), _ROWS):
        rows = table[start : start + _ROWS]
        layout = Layout(rows.shape, (1, *rows.shape), (0, 2, 1))
        parts.append(_solved(replace(grid, layout=layout), rows, None))
    by_rows = 1 if grid.recipe.block else 0
    integers, scales = zip(*parts, strict=True)
    return np.concatenate(integers), np.concatenate(scales, axis=by_rows)


def _solved(grid: _Grid, stored: Array, seen: Seen | None) -> tuple[Array, Array]:
    """Integers of the stored shape, and steps that broadcast against them."""
    recipe, layout = grid.recipe, grid.layout
    dense = layout.matrices(stored).astype(np.float64) if seen is None else seen.target
    groups = len(dense)
    grams = None if seen is None else [seen.gram[min(at, len(seen.gram) - 1)] for at in range(groups)]
    order = layout.by_channel() if isinstance(recipe.sparsity, Blocks) else None
    if order is not None:
        dense = dense[:, order]
        grams = None if grams is None else [gram[np.ix_(order, order)] for gram in grams]
    importance = np.ones(dense.shape[:2]) if grams is None else np.array([np.diagonal(gram) for gram in grams])
    pruned = np.array([_pruned(dense[at], None if grams is None else grams[at], recipe) for at in range(groups)])
    back = slice(None) if order is None else np.argsort(order)
    # Steps that suit the values as pruning leaves them.
    scale = grid.scale(pruned[:, back], importance[:, back])
    steps = grid.steps(scale)
    if recipe.solver == "joint" and grams is not None:
        ordered = steps if order is None else steps[:, order]
        found = [_joint(dense[at], grams[at], ordered[at], recipe) for at in range(groups)]
        return layout.stored(np.array(found)[:, back]), scale
    rounded = np.clip(np.rint(pruned[:, back] / steps), -recipe.largest, recipe.largest)
    return layout.stored(rounded.astype(np.int8)), scale


def _pruned(dense: Array, gram: Array | None, recipe: Recipe) -> Array:
    """[k, n] with its zeros, before any rounding; the rest makes up for them unless it is only to be rounded."""
    if not recipe.sparse:
        return dense
    if recipe.solver == "round" or gram is None:
        if recipe.score == "obs" and gram is not None:
            return np.where(_mask(sparsegpt.obs_scores(dense, gram), recipe), dense, 0.0)
        return np.where(_scored(dense, gram, recipe), dense, 0.0)
    kept = None if recipe.score == "obs" else _scored(dense, gram, recipe)
    return sparsegpt.solve(dense, gram, sparsity=recipe.sparsity, kept=kept).values


def _joint(dense: Array, gram: Array, steps: Array, recipe: Recipe) -> Array:
    kept = None if recipe.score == "obs" or not recipe.sparse else _scored(dense, gram, recipe)
    found = sparsegpt.solve(
        dense,
        gram,
        sparsity=recipe.sparsity,
        kept=kept,
        scale=steps,
        largest=recipe.largest,
        descending=not recipe.sparse,
    )
    return np.asarray(found.integers)


def _scored(dense: Array, gram: Array | None, recipe: Recipe) -> Array:
    """[k, n] true where a weight stays, by scores that no zero changes."""
    if recipe.score == "wanda" and gram is not None:
        return _mask(wanda_scores(dense, np.sqrt(np.diagonal(gram))), recipe)
    return _mask(magnitude_scores(dense), recipe)


def _mask(scores: Array, recipe: Recipe) -> Array:
    if isinstance(recipe.sparsity, Blocks):
        return blocks_mask(scores, recipe.sparsity)
    # Within each output, as Wanda has it; over all of them otherwise.
    return share_mask(scores, recipe.sparsity, group="output" if recipe.score == "wanda" else "layer")


def _fits_half(values: Array, kept: tuple[int, ...], largest: int) -> bool:
    """Whether every scale is a normal half-precision number, so that rounding it costs less than 0.05 %."""
    scale = symmetric_scale(values, kept, largest=largest)
    return bool(scale.min() > np.finfo(np.float16).tiny and scale.max() < np.finfo(np.float16).max)
