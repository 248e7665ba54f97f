"""What a pass is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from onnxprune.calibration import Needs, Statistics
from onnxprune.cosines import Pair
from onnxprune.decoding import Decoding
from onnxprune.dimensions import Dimension
from onnxprune.inputs import Inputs, Source
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.progress import Progress
from onnxprune.sites import Site
from onnxprune.solvers.taylor import GateGradient, WeightGradient
from onnxprune.structure import Structure

Array = np.ndarray[Any, Any]
CompareInputs = Callable[[Model, Model, Collection[Source]], Mapping[Source, Inputs]]

__all__ = ["Context", "Gradients", "Level", "Needs", "Pass", "Proposal", "Trained"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A form of one linear, as a clock knows it.

    Attributes:
        form: `float`; `pair`, two products of rank `rank`; `int8`, with activations quantized at run time (of a
            convolution, between integers); `int8-pair`, a pair of such; `weight-only`, weights of 4 bits unpacked as
            they are multiplied; `packed-rows` and `block-rows`, a table of 4 bits unpacked by standard operators or by
            the runtime's own.
        rank: of a pair, 1 at least; None for the others.
        columns: output features, where they are not the linear's own: several linears side by side.
    """

    form: Literal["float", "pair", "int8", "int8-pair", "weight-only", "packed-rows", "block-rows"] = "float"
    rank: int | None = None
    columns: int | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """What `propose` may look at besides the model.

    Attributes:
        statistics: of the tensors that the pass needed; None where there are no sample inputs.
        structure: dimensions and shapes; for passes that say `structural`.
        shapes: of every tensor in each of a few runs whose dynamic axes differ; for passes that say `observant`.
        observe: values of the named tensors in one run of the model as it now is, on any input.
        compare_inputs: moments of what layers read in an edited model beside another, over the calibration samples;
            None where there are none.
        cosines: mean cosines of pairs of tensors, of an edited model and another, over calibration samples; None
            where there are none.
        loss: what a model loses on calibration samples, the lower the better; None where there are none.
        original: the model before any lossy edit, whose outputs refits aim at.
        latency: milliseconds of a linear in some form, on the target, with the timed input; None where none is timed.
        decoding: what the runtime decodes when it makes a session, held against one model; None where none is at hand.
        gradients: what the loss feels of weights and units, for the option that is named; None where there are no
            sample inputs. It needs torch, and says so in one line where that is missing.
        recover: weights of a model, trained towards the original on the calibration samples by the settings of the
            pass `recover`; None where there are none.
        signs: types of static activations and weights that are worth a try on the targets, the likeliest first.
        progress: told each part of what takes long.
        seed: of every random choice.
    """

    statistics: Statistics | None = None
    structure: Structure | None = None
    shapes: Mapping[str, tuple[tuple[int, ...], ...]] | None = None
    observe: Callable[[Sequence[str]], Mapping[str, Array]] | None = None
    compare_inputs: CompareInputs | None = None
    cosines: Callable[[Model, Model, Sequence[Pair]], tuple[float, ...]] | None = None
    loss: Callable[[Model], float] | None = None
    original: Model | None = None
    latency: Callable[[Site, Level], float] | None = None
    decoding: Callable[[Model], Decoding] | None = None
    gradients: Callable[[str], Gradients] | None = None
    recover: Callable[[Model, Any], Trained] | None = None
    signs: tuple[str, ...] = ("u8s8",)
    progress: Progress = lambda _: None
    seed: int = 0


class Gradients(Protocol):
    """Gradients of the loss over calibration samples, whatever computes them."""

    def weights(self, model: Model) -> Mapping[str, WeightGradient]:
        """Of every stored float tensor by name."""
        ...

    def gates(self, model: Model, dimensions: Sequence[Dimension]) -> Sequence[GateGradient]:
        """Of gates on the units of each dimension."""
        ...

    def relevance(self, model: Model, dimensions: Sequence[Dimension]) -> Sequence[Array]:
        """[units] of each dimension: layer-wise relevance."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training made of a model.

    Attributes:
        weights: stored tensors that changed, as the file holds them.
        steps: how many were taken.
        best_step: after which the held-out fidelity was best; what is kept is from there.
        before: fidelity at the start, on the held-out samples that chose the best.
        after: fidelity of what is kept, on the same.
        cpu_seconds: of all threads.
        history: one entry a check: step, parts of the loss, fidelity.
        objective: what was taught, in words.
    """

    weights: Mapping[str, Array]
    steps: int
    best_step: int
    before: float
    after: float
    cpu_seconds: float
    history: tuple[Mapping[str, Any], ...] = ()
    objective: str = ""


@dataclass(frozen=True)
class Proposal:
    """Edits that a pass wants made, and the sites that it leaves alone with the reason."""

    edits: tuple[Edit, ...] = ()
    skips: tuple[Skip, ...] = field(default=())


class Pass(Protocol):
    """A frozen dataclass of options that edits graphs. `apply` depends on the edits alone, never on the options.

    A pass whose edits trade fidelity for speed may offer `milder(edit)`: what is given up, in words, and an edit of the
    same site that is as small but no faster; None where there is none. It is taken where the floor or the clock refuses
    the first.

    A pass that writes static integers may offer `variant(edit, signs)`: an edit of the same integers in other types,
    None where there is nothing to choose. It is taken where the clock finds it clearly faster.

    A pass that has a true `exact` stores other bytes for the same model: outputs must be equal bit for bit, and runs
    no slower.

    A pass that has a true `relative` says the same in other operators: outputs must be the model's before it up to
    rounding, and runs no slower. It may offer `rivals(edit)`: the name of a kind of edits that stand only where the
    clock says that the model is faster with them; None for others. Of edits that move outputs by more it may offer
    `may_lose(edit)`: how much of the fidelity (0 for others); and `fewer(edit)`: the same at fewer places, None where
    it is all or nothing.

    A pass that has a true `structural` gets the model's structure, one that has a true `observant` the shapes. One with
    a true option `cut_interface` gets a structure in which key-value caches among inputs and outputs may be cut. What
    it says is `timed`, kinds of sites, keeps its edits only where they make no run clearly slower.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool]

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """The statistics that `propose` wants; collected only where there are sample inputs."""
        ...

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """Edits in the order in which they are to be applied. Solves everything; edits nothing."""
        ...

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """A new model with the edits carried out, and one change an edit.

        Raises:
            Declined: an edit does not fit the model.
        """
        ...
