"""Which block can go: every criterion beside what removing each block alone does to held-out text; and merged layers.

    python -m benchmarks.blocks [--folder benchmarks] [--rounds 4]

Writes `blocks.json`, and `blocks.md` from it. On fixtures/gloss-gpt, 6 layers, trained once. Criteria see calibration
samples only; perplexities are of 256 held-out blocks of 64 tokens. The random criterion and the choice of 10
calibration samples are drawn with 5 seeds.
"""

import itertools
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.stats import spearmanr

from benchmarks import blocks_page, script
from onnxprune import spec
from onnxprune.cosines import mean_cosines
from onnxprune.data import Samples, load_samples
from onnxprune.isomorphism import find_layers
from onnxprune.loss import choose_loss, few
from onnxprune.merging import Rule, Search
from onnxprune.model import Model, load, save
from onnxprune.passes import RemoveBlocks, known
from onnxprune.plan import Edit
from onnxprune.protocol import Context
from onnxprune.runtime import Session, observe, observe_shapes, open_session
from onnxprune.sites import Site, find_sites
from onnxprune.structure import Structure, read_structure
from onnxprune.synthetic import probes
from onnxprune.targets.target import parse_target

_GPT = Path(__file__).parents[1] / "fixtures" / "gloss-gpt"
_SEEDS = range(5)
# As many samples as the paper takes.
_PAPER_SAMPLES = 10

Row = dict[str, Any]


class Subject:
    """The fixture, simplified, with what passes may look at."""

    def __init__(self) -> None:
        path = _GPT / "model.onnx"
        loaded = load(path)
        self.session: Session = open_session(path)
        self.samples: Samples = load_samples(str(_GPT / "calibration.npz"), self.session.inputs)
        tried = probes(loaded, self.session, self.samples.feeds[0])
        simplify = spec.parse("simplify", known())
        context = Context(observe=lambda names: observe(loaded, tried[0], names))
        edits = simplify.propose(loaded, find_sites(loaded), context).edits
        self.model: Model = simplify.apply(loaded, edits)[0]
        self.structure: Structure = read_structure(self.model, observe_shapes(self.model, tried))
        self.sites: list[Site] = [site for site in find_sites(self.model, self.structure) if site.kind == "block"]
        self._score: Callable[..., float] = runpy.run_path(str(_GPT.parent / "score.py"))["score"]

    def perplexity(self, model: Model) -> float:
        """Of all held-out blocks."""
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder) / "candidate.onnx")
            return self._score("gloss-gpt", Path(folder) / "candidate.onnx")

    def without(self, names: Sequence[str]) -> Model:
        """The model less the blocks of these ids."""
        one = RemoveBlocks(sites=tuple(names))
        return one.apply(self.model, one.propose(self.model, self.sites, Context(structure=self.structure)).edits)[0]

    def order(
        self, score: str, *, layers: bool, samples: Samples | None = None, loss: str = "next-token", seed: int = 0
    ) -> list[str]:
        """Units in the order in which `remove-blocks` takes them, the first to go first."""
        chosen = samples or self.samples
        context = Context(
            structure=self.structure,
            loss=choose_loss(self.model, self.session, chosen, loss),
            cosines=lambda first, second, pairs: mean_cosines(first, second, pairs, few(chosen.calibration)),
            seed=seed,
        )

        def gone(kept: int) -> tuple[Edit, ...]:
            one = spec.parse(f"remove-blocks:keep={kept},score={score},layers={'yes' if layers else 'no'}", known())
            edits: tuple[Edit, ...] = one.propose(self.model, self.sites, context).edits
            return edits

        if score == "loss":
            return [edit.site for edit in sorted(gone(0), key=lambda edit: float(edit.args["loss"][1]))]
        taken: list[str] = []
        for kept in range(len(self.units(layers=layers)) - 1, -1, -1):
            taken += [edit.site for edit in gone(kept) if edit.site not in taken]
        return taken

    def units(self, *, layers: bool) -> list[str]:
        """Ids of the blocks, or of whole layers joined by +."""
        if not layers:
            return [site.id for site in self.sites]
        blocks = [site.block for site in self.sites if site.block is not None]
        names = {site.anchor: site.id for site in self.sites}
        return ["+".join(names[b.output] for b in one.blocks) for one in find_layers(blocks, self.model.graph)]


def criteria(subject: Subject, *, layers: bool) -> Row:
    """Each criterion's order of single removals, beside their held-out perplexities."""
    units = subject.units(layers=layers)
    held_out = {unit: subject.perplexity(subject.without(unit.split("+"))) for unit in units}
    best = sorted(units, key=held_out.__getitem__)
    few_draws = [subject.order("loss", layers=layers, samples=drawn(subject, seed)) for seed in _SEEDS]
    tried: list[tuple[str, list[list[str]]]] = [
        ("perplexity, 64 samples", [subject.order("loss", layers=layers)]),
        (f"perplexity, {_PAPER_SAMPLES} samples", few_draws),
        ("divergence of the outputs, 64 samples", [subject.order("loss", layers=layers, loss="divergence")]),
        ("cosine (BI), 64 samples", [subject.order("cosine", layers=layers)]),
        ("magnitude", [subject.order("magnitude", layers=layers)]),
        ("random", [subject.order("random", layers=layers, seed=seed) for seed in _SEEDS]),
    ]
    rows = [
        {
            "criterion": name,
            "picks": [order[0] for order in orders],
            "place": [best.index(order[0]) + 1 for order in orders],
            "perplexity": [held_out[order[0]] for order in orders],
            "correlation": [
                float(spearmanr(range(len(order)), [held_out[unit] for unit in order]).statistic) for order in orders
            ],
        }
        for name, orders in tried
    ]
    return {"held_out": held_out, "rows": rows}


def drawn(subject: Subject, seed: int) -> Samples:
    """As few calibration samples as the paper takes; so drawn that none is set apart."""
    pool = subject.samples.calibration
    places = np.random.default_rng(seed).choice(len(pool), _PAPER_SAMPLES, replace=False)
    feeds = [pool[int(place)] for place in places]
    # Every fourth sample judges and does not calibrate: one in four is doubled to stand there.
    padded = [one for at, feed in enumerate(feeds) for one in ((feed, feed) if at % 3 == 2 else (feed,))]
    return Samples(feeds=tuple(padded), source="drawn")


def several(subject: Subject) -> list[Row]:
    """Two and three blocks by perplexity, scored once and anew after each, beside the best choice of all."""
    units = subject.units(layers=False)
    rows = []
    for count in (2, 3):
        context = Context(
            structure=subject.structure,
            loss=choose_loss(subject.model, subject.session, subject.samples, "next-token"),
        )
        row: Row = {"count": count}
        for name, greedy in (("once", False), ("greedy", True)):
            one = RemoveBlocks(keep=len(units) - count, greedy=greedy)
            row[name] = [edit.site for edit in one.propose(subject.model, subject.sites, context).edits]
            row[f"{name}_perplexity"] = subject.perplexity(subject.without(row[name]))
        if count == 2:
            every = {pair: subject.perplexity(subject.without(pair)) for pair in itertools.combinations(units, count)}
            row["best"] = list(min(every, key=every.__getitem__))
            row["best_perplexity"] = min(every.values())
            row["choices"] = len(every)
            row["place"] = sorted(every.values()).index(row["once_perplexity"]) + 1
        rows.append(row)
    return rows


def merges(subject: Subject) -> list[Row]:
    """Groups of two and three layers merged by both rules, beside dropping as many."""
    layers = [unit.split("+") for unit in subject.units(layers=True)]
    context = Context(
        structure=subject.structure,
        cosines=lambda first, second, pairs: mean_cosines(first, second, pairs, few(subject.samples.calibration)),
    )
    rows = []
    for group in (2, 3):
        for at in range(len(layers) - group + 1):
            row: Row = {"group": group, "first": at}
            for rule in get_args(Rule):
                search = Search("merge-blocks", rule, subject.model, subject.sites, context, None)
                candidate = search.candidate(at, group)
                if candidate is None:
                    raise SystemExit(f"layers {at} to {at + group - 1} do not merge")
                row[rule] = {"cosine": candidate[0].args["cosine"], "perplexity": subject.perplexity(candidate[1])}
            # Both ways to keep one whole layer of the group.
            for name, gone in (("keep first", layers[at + 1 : at + group]), ("keep last", layers[at : at + group - 1])):
                row[name] = subject.perplexity(subject.without([block for layer in gone for block in layer]))
            rows.append(row)
    return rows


def speed(subject: Subject, rounds: int) -> list[Row]:
    """How latency falls with layers removed: models alternate on one thread, 16 x 64 tokens."""
    layers = subject.units(layers=True)
    order = subject.order("loss", layers=True)
    tokens = np.concatenate([np.asarray(feed["input_ids"]) for feed in subject.samples.feeds[:16]])
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for count in range(4):
            paths.append(Path(folder) / f"{count}.onnx")
            save(subject.without([name for unit in order[:count] for name in unit.split("+")]), paths[-1])
        timed = parse_target("cpu:1").time(paths, {"input_ids": tokens}, budget_s=rounds * 10.0)
    return [
        {"removed": count, "layers": len(layers) - count, **one.speedup.to_json()} for count, one in enumerate(timed)
    ]


def main() -> None:
    """Measure and write the page."""
    parser = script.options(__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="timing, in units of 10 s (default: %(default)s)")
    options = script.read(parser, None)
    subject = Subject()
    result: Row = {"machine": script.machine(), "uncut": subject.perplexity(subject.model)}
    for name, measure in (
        ("blocks", lambda: criteria(subject, layers=False)),
        ("layers", lambda: criteria(subject, layers=True)),
        ("several", lambda: several(subject)),
        ("merges", lambda: merges(subject)),
        ("speed", lambda: speed(subject, options.rounds)),
    ):
        print(f"{name} …", file=sys.stderr, flush=True)
        result[name] = measure()
    script.write(options.folder, "blocks", result, lambda held: blocks_page.markdown(held, _SEEDS, _PAPER_SAMPLES))


if __name__ == "__main__":
    main()
