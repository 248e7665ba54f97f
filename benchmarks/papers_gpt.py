"""The GPT fixture for methods that cut once: drawn calibration samples, passes without a clock, perplexity."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpt
from onnxprune import spec
from onnxprune.cosines import Pair, mean_cosines
from onnxprune.isomorphism import final_hidden, find_layers
from onnxprune.latency import Clock
from onnxprune.loss import few
from onnxprune.model import Model, save
from onnxprune.passes import known
from onnxprune.plan import Edit
from onnxprune.runtime import observe_shapes
from onnxprune.sites import find_sites
from onnxprune.storage import stored_weights
from onnxprune.structure import read_structure
from onnxprune.subject import Subject, context_for, load_subject
from onnxprune.targets.target import parse_target


class Bench:
    """The fixture with blocks of its training text, drawn anew for each seed.

    Attributes:
        subject: what passes look at.
        model: simplified.
        held: what others collect of models, by the model's identity.
    """

    def __init__(self, seed: int, samples: int, lessons: int = 0) -> None:
        self.seed = seed
        self._folder = tempfile.TemporaryDirectory()
        path = gpt.FIXTURE / "model.onnx"
        self.subject: Subject = load_subject(
            path, self._drawn("data", samples), {}, seed, "next-token", None, allow_synthetic=False,
            lessons=self._drawn("lessons", lessons) if lessons else None,
        )  # fmt: skip
        self.held: dict[int, Any] = {}
        self._clock = Clock(parse_target("cpu:1"))
        self.model = self.subject.model
        self.model, _ = self.cut(self.model, "simplify")

    def _drawn(self, name: str, count: int) -> str:
        blocks = np.load(gpt.training_file())["input_ids"]
        # Three of four calibrate, so that as many do as asked for.
        chosen = np.random.default_rng([self.seed, len(name)]).choice(len(blocks), -(-count * 4 // 3), replace=False)
        path = Path(self._folder.name) / f"{name}.npz"
        arrays: dict[str, Any] = {"input_ids": blocks[chosen]}
        np.savez(path, **arrays)
        return str(path)

    def cut(self, model: Model, *texts: str) -> tuple[Model, tuple[Edit, ...]]:
        """A model after passes, each on what the one before left, and the edits of all."""
        edits: tuple[Edit, ...] = ()
        for text in texts:
            one = spec.parse(text, known())
            context = context_for(one, model, self.model, self.subject, self._clock, seed=self.seed)
            found = one.propose(model, find_sites(model, context.structure), context).edits
            model = one.apply(model, found)[0] if found else model
            edits += tuple(found)
        return model, edits

    def perplexity(self, model: Model) -> float:
        """Of the fixture's 256 held-out blocks."""
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder) / "model.onnx")
            return gpt.held_out_perplexity(Path(folder) / "model.onnx")

    def layers(self) -> list[str]:
        """The layers in data order, each as the ids of its blocks joined by +."""
        structure = read_structure(self.model, observe_shapes(self.model, self.subject.evidence.probes))
        sites = [site for site in find_sites(self.model, structure) if site.kind == "block"]
        names = {site.anchor: site.id for site in sites}
        found = find_layers([site.block for site in sites if site.block is not None], self.model.graph)
        return ["+".join(names[block.output] for block in layer.blocks) for layer in found]

    def without(self, *layers: str) -> Model:
        """The model less these layers."""
        return self.cut(self.model, f"remove-blocks:sites={'+'.join(layers)}")[0]

    def scored(self, layers: Sequence[str], text: str) -> dict[str, float]:
        """Of each layer, the place in which a pass that removes all takes it, the first to go first."""
        count = len(layers)
        order: list[str] = []
        for kept in range(count - 1, -1, -1):
            _, edits = self.cut(self.model, text.replace("keep=0", f"keep={kept}"))
            order += [edit.site for edit in edits if edit.site in layers and edit.site not in order]
        return {name: float(at) for at, name in enumerate(order)}

    def cosine(self, model: Model) -> float:
        """Mean cosine of the last hidden states, the simplified model's to another's."""
        structure = read_structure(self.model, observe_shapes(self.model, self.subject.evidence.probes))
        blocks = [site.block for site in find_sites(self.model, structure) if site.block is not None]
        hidden = final_hidden(self.model.graph, find_layers(blocks, self.model.graph)[-1], structure.shapes)
        return mean_cosines(model, self.model, [Pair(hidden, hidden, None)], few(self.subject.samples.calibration))[0]


def parameters(model: Model) -> int:
    """Numbers in stored weights."""
    return sum(one.numbers for one in stored_weights(model))
