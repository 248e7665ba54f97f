"""Store weights as int8, and multiply with integers where that is what the runtime is fast at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from onnxprune.calibration import Needs
from onnxprune.errors import DataError, Declined, OptionError
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.qdq import Signs
from onnxprune.quantizing.allocation import allocated
from onnxprune.quantizing.applying import apply_edits
from onnxprune.quantizing.correcting import output_shift
from onnxprune.quantizing.forms import OPSETS, SMALLEST_BLOCK, block_of, convs_of, forms_of, inputs_of, linears_of
from onnxprune.quantizing.leaving import has_own_bias, left_alone, quantized_already, refuse, tables_among
from onnxprune.quantizing.milder import decoded_at_load, finer
from onnxprune.quantizing.ranges import Chosen, Ranges, can_be_static, range_needs
from onnxprune.quantizing.recipes import Recipe, Score, Solver, parse_sparsity
from onnxprune.quantizing.solving import Integers
from onnxprune.quantizing.stages import Task, solve_tasks
from onnxprune.ranges import check_ranges, within
from onnxprune.sites import GRAPH, Site, refuse_unknown, registered
from onnxprune.solvers.ranges import PERCENTILE, Method
from onnxprune.solvers.wanda import Blocks
from onnxprune.weights import Weight, find_weights

# Inputs that share a scale in weight-only products.
_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class SparseInt8:
    """Int8 weights with one scale a channel, zeros exact; products of integers where activations allow.

    Attributes:
        activations: `dynamic` quantizes what linears read at run time; `static` between ranges that sample inputs have
            shown, of convolutions, too; `none` keeps products in float and only the file small; `auto` is dynamic for
            linears and static for convolutions where there are sample inputs.
        linears: `dynamic`, `static`, `stored` (products in float), `float` (left alone), or `weight-only`, packed
            weights in blocks by onnxruntime's own operator; `auto` is as above, and where that is dynamic and bits are
            fewer than 8, what the clock finds faster.
        convs: `static`, `stored` or `float`; `auto`: as above.
        embeddings: bits of embedding tables: 8, with one scale a row, or 4, packed two to a byte and unpacked row by
            row as they are looked up; `yes` is 8, `no` leaves them alone. A table that is multiplied with, too, keeps
            as many bits as the products' weights at least.
        block: inputs that share a scale, of weight-only products (32 where nothing is said) and of tables of 4 bits;
            it is halved until it divides them. All of an output's inputs, or of a row, share one otherwise.
        sparsity: share of each weight's numbers that become zero, in [0, 1), or N:M, at most N of every M consecutive
            inputs left. Tables that rows are looked up in stay dense.
        bits: of the integers; of 4 and 3 the file is smaller once `pack-weights` has been over it.
        score: which numbers become zero: `obs`, those that the others make up for best, `wanda`, by size times the
            input's norm within each output, `magnitude`. The first two need sample inputs.
        solver: `round` rounds to the nearest and no more; `joint` chooses zeros and integers in one sweep over the
            inputs, later ones making up for what earlier ones lost (needs sample inputs); `prune-then-round` makes up
            for zeros alone; `auto` is `joint` for zeros or fewer than 8 bits where there are sample inputs.
        allocation: `uniform` gives each weight the same share of zeros, `loss` more to those whose zeros cost the model
            less, measured one by one on the sample inputs; in all as many.
        sequential: solve each weight on what the weights solved before it leave of its inputs.
        ranges: how the ends of a static range are chosen: `minmax`, `percentile`, `entropy` (least divergence) or `mse`
            (least expected squared error).
        percentile: percent of the values that a percentile range covers.
        correct: take from biases what rounding and pruning weights adds to mean outputs; needs sample inputs.
        signs: types of static activations and weights: `u8s8`, `s8s8` or `u8u8`; `auto` is what the targets are fastest
            at. x64 is fast at the first.
        portable: 7-bit weights in columns whose products with unsigned activations may saturate on x64 without VNNI.
        quantized: what to do with a graph that holds integer operators already: `leave` it alone as its maker chose,
            or `extend` them to what is still in float.
        sites: act on these linears, convolutions and embeddings only; on all of them by default.
    """

    name: ClassVar[str] = "sparse-int8"
    lossless: ClassVar[bool] = False
    activations: Literal["auto", "dynamic", "static", "none"] = "auto"
    linears: Literal["auto", "dynamic", "static", "weight-only", "stored", "float"] = "auto"
    convs: Literal["auto", "static", "stored", "float"] = "auto"
    embeddings: Literal[8, 4] | bool = True
    sparsity: float | str = 0.0
    bits: Literal[8, 4, 3] = 8
    score: Score = "obs"
    solver: Literal["auto"] | Solver = "auto"
    allocation: Literal["uniform", "loss"] = "uniform"
    sequential: bool = True
    block: int | None = None
    ranges: Method = "percentile"
    percentile: Annotated[float, within("(50, 100]")] = PERCENTILE
    correct: bool = True
    signs: Literal["auto"] | Signs = "auto"
    portable: bool = False
    quantized: Literal["leave", "extend"] = "leave"
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject values that no form stands for."""
        check_ranges(self, self.name)
        if self.embeddings not in {8, 4, True, False}:
            raise OptionError(f"{self.name}: embeddings must be one of 8, 4, yes, no, got {self.embeddings!r}.")
        if self.block is not None and not (self.block >= SMALLEST_BLOCK and self.block.bit_count() == 1):
            raise OptionError(f"{self.name}: block must be a power of two from {SMALLEST_BLOCK} on, got {self.block}.")
        if parse_sparsity(self.sparsity) is None:
            raise OptionError(
                f"{self.name}: sparsity must be a share in [0, 1) or N:M with 0 < N < M, got {self.sparsity!r}."
            )
        if self.allocation == "loss" and isinstance(parse_sparsity(self.sparsity), Blocks):
            raise OptionError(f"{self.name}: allocation=loss needs sparsity to be a share, got {self.sparsity!r}.")

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Ranges around what may become static, and means of what convolutions read."""
        del sites
        linears = linears_of(self) == "static"
        if convs_of(self) not in {"auto", "static"} and not linears:
            return Needs()
        return range_needs(model, self._ranges(), linears=linears, correct=self.correct)

    def _ranges(self) -> Ranges:
        return Ranges(method=self.ranges, percentile=self.percentile)

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a weight, each with all its readers; readers that cannot follow keep the weight in float."""
        edits: list[Edit] = []
        skips: list[Skip] = left_alone(model)
        held = quantized_already(model)
        if held and self.quantized == "leave":
            why = f"the graph is quantized already ({', '.join(held)}); option quantized=extend takes the rest too"
            return Proposal((), (*skips, Skip(site=GRAPH, why=why)))
        weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
        own = [site for site in sites if site.weight in weights]
        refuse_unknown(self.name, self.sites, own, registered(model))
        recipe, tables = self._recipe(context), tables_among(weights.values())
        chosen = Chosen(model, context.statistics, self._ranges(), linears=linears_of(self) == "static")
        tasks: dict[str, Task] = {}
        for site in own:
            if self.sites and site.id not in self.sites:
                skips.append(Skip(site=site.id, why="not among option sites"))
                continue
            try:
                weight = weights[site.weight]
                flows = [use.role == "conv" and can_be_static(use, model) and chosen.has(use) for use in weight.uses]
                refuse(weight, small=all(flows) and convs_of(self) in {"auto", "static"})
                forms = forms_of(site, weight, self, context, chosen, model)
                taken = self._own(recipe, weight, dict(forms), tables)
                corrected = self.correct and taken.looks_at_inputs and has_own_bias(weight, model)
                tasks[site.id] = Task(weight, dict(forms), taken, corrected)
            except Declined as reason:
                skips.append(Skip(site=site.id, why=str(reason)))
        if self.allocation == "loss" and isinstance(recipe.sparsity, float) and recipe.sparse:
            shared_out = allocated(list(tasks.values()), model, context, recipe.sparsity)
            tasks = dict(zip(tasks, shared_out, strict=True))
        solved = solve_tasks(list(tasks.values()), model, context, sequential=self.sequential)
        for name, task in tasks.items():
            solution = solved[task.name]
            if solution.integers is None:
                skips.append(Skip(site=name, why=solution.why))
            else:
                edits.append(self._edit(name, task, solution.integers, solution.blind, chosen, context))
        return Proposal(tuple(self._with_opset(edits, model.graph.opset)), tuple(skips))

    def _recipe(self, context: Context) -> Recipe:
        """What becomes of weights that are multiplied."""
        sparsity = parse_sparsity(self.sparsity) or 0.0
        recipe = Recipe(bits=self.bits, sparsity=sparsity, score=self.score)
        lossy = recipe.sparse or self.bits < 8
        blind = context.compare_inputs is None
        if self.solver != "auto":
            recipe = replace(recipe, solver=self.solver)
        elif lossy and not (blind and not recipe.looks_at_inputs):
            recipe = replace(recipe, solver="joint")
        if blind and (recipe.looks_at_inputs or (recipe.sparse and self.allocation == "loss")):
            instead = ["solver=round"]
            instead += ["score=magnitude"] if recipe.sparse else []
            instead += ["allocation=uniform"] if self.allocation == "loss" else []
            raise DataError(
                f"{self.name}: {self._wants()} needs sample inputs. Give --data, or {','.join(instead)}, or "
                "--allow-synthetic to calibrate on made-up ones."
            )
        return recipe

    def _wants(self) -> str:
        """The option that cannot do without sample inputs."""
        if self.solver in {"joint", "prune-then-round"}:
            return f"solver={self.solver}"
        if self.allocation == "loss":
            return "allocation=loss"
        return f"sparsity={self.sparsity}"

    def _with_opset(self, edits: list[Edit], opset: int) -> list[Edit]:
        wanted = {edit.id: max(OPSETS.get(form, 0) for form in edit.args["forms"].values()) for edit in edits}
        needed = max(wanted.values(), default=0)
        if needed <= opset:
            return edits
        first = Edit(id=f"{self.name}.opset", pass_name=self.name, site=GRAPH, kind="raise-opset", args={"to": needed})
        return [first, *(replace(edit, depends_on=(first.id,)) if wanted[edit.id] > opset else edit for edit in edits)]

    def _own(self, recipe: Recipe, weight: Weight, forms: dict[str, str], tables: frozenset[str]) -> Recipe:
        """The recipe of one weight: tables, and heads that are copies of tables, get no zeros."""
        taken = {*forms.values()}
        block = None
        if taken == {"weight-only"}:
            block = block_of(self.block or _BLOCK, inputs_of(weight))
        elif taken <= {"block-rows", "packed-rows"}:
            block = block_of(self.block, int(weight.constant.shape[1]))
        # Of the forms between fixed ranges, those of other types do not saturate.
        unsigned = "dynamic" in taken or (self.signs in {"auto", "u8s8"} and bool(taken & {"ranged", "static"}))
        recipe = replace(recipe, portable=self.portable and unsigned)
        bits = 4 if self.embeddings == 4 else 8
        if all(use.role == "embedding" for use in weight.uses):
            return Recipe(bits=bits, block=block)
        if any(use.role == "embedding" for use in weight.uses):
            recipe = replace(recipe, bits=max(bits, self.bits))
        if weight.constant.name in tables:
            recipe = replace(recipe, sparsity=0.0, solver="round" if recipe.bits == 8 else recipe.solver)
        return replace(recipe, block=block)

    def _edit(self, site: str, task: Task, solved: Integers, blind: str, chosen: Chosen, context: Context) -> Edit:
        args: dict[str, Any] = {"weight": task.name, "forms": task.forms, **solved.args}
        if blind:
            args["blind"] = blind
        between = [use for use in task.weight.uses if task.forms[use.name] in {"ranged", "static"}]
        if between:
            args |= {
                "ranges": {use.name: chosen.of(use) for use in between},
                "signs": context.signs[0] if self.signs == "auto" else self.signs,
            }
        tensors = dict(solved.tensors)
        if self.correct and "static" in task.forms.values():
            shift = output_shift(task.weight, solved.values, chosen.means)
            tensors |= {} if shift is None else {"shift": shift}
        return Edit(
            id=f"{self.name}.{site}",
            pass_name=self.name,
            site=site,
            kind="quantize-weight",
            args=args,
            tensors=tensors,
        )

    def milder(self, edit: Edit) -> tuple[str, Edit] | None:
        """The same integers, decoded at load instead of multiplied: as small a file, products in float."""
        return decoded_at_load(edit)

    def variant(self, edit: Edit, signs: str) -> Edit | None:
        """The same static integers in other types: they differ by an offset of 128."""
        if self.signs != "auto" or edit.args.get("signs", signs) == signs:
            return None
        return replace(edit, args={**edit.args, "signs": signs})

    def finer(self, edit: Edit, model: Model) -> tuple[str, Edit] | None:
        """Eight bits without zeros in place of fewer bits or zeros; then the milder form."""
        return finer(edit, model)

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with its weights replaced; tensors of the edits are written as they are."""
        return apply_edits(model, edits)
