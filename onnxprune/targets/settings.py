"""Settings of sessions that a file recommends: the runtime's own, unless the clock finds another clearly faster."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from onnxprune.errors import ModelError, PlanError
from onnxprune.graph import storage
from onnxprune.model import Model
from onnxprune.runtime import Feeds, written
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.timing import Ratio

# Where a file keeps them, as JSON.
SESSION = "onnxprune.session"
# What is no faster than this is no reason to set anything: less is noise.
_CLEARLY = 1.03
# Seconds of alternated runs for each setting.
_BUDGET_S = 0.15
# Each setting is a session of its own, with its copy of the weights.
_LARGEST_BYTES = 2**28
_MOST_THREADS = 1024
# As the runtime's own documentation has it.
_BLOCKS = 4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a session is made.

    Attributes:
        threads: of one operator (`intra_op_num_threads`).
        arena: whether a run's memory is kept for the next (`enable_cpu_mem_arena`).
        spinning: whether threads that wait spin (`session.intra_op.allow_spinning`); of one thread none waits.
        pattern: whether a run's memory is laid out as in the runs before (`enable_mem_pattern`).
        level: of graph optimizations: `all`, or `extended`, which leaves layouts as they are
            (`graph_optimization_level`).
        blocks: into how many parts for each thread work is cut, so that a slow thread gets less of it
            (`session.dynamic_block_base`); 0: one; of one thread none is slower.
    """

    threads: int
    arena: bool = True
    spinning: bool = True
    pattern: bool = True
    level: Literal["all", "extended"] = "all"
    blocks: int = 0

    def __str__(self) -> str:
        """In words."""
        words = [f"{self.threads} thread" + "s" * (self.threads > 1), f"arena {'on' if self.arena else 'off'}"]
        words += [f"spinning {'on' if self.spinning else 'off'}"] * (self.threads > 1)
        words += ["memory pattern off"] * (not self.pattern) + ["extended optimizations"] * (self.level != "all")
        return ", ".join(words + [f"work in blocks of 1/{self.blocks}"] * (self.blocks > 0))

    def job(self) -> dict[str, Any]:
        """As a worker takes them."""
        config = {"session.force_spinning_stop": "1"}
        config |= {} if self.spinning else {"session.intra_op.allow_spinning": "0"}
        config |= {"session.dynamic_block_base": str(self.blocks)} if self.blocks else {}
        return {
            "threads": self.threads, "arena": self.arena, "pattern": self.pattern, "level": self.level,
            "config": config,
        }  # fmt: skip

    @classmethod
    def read(cls, held: Any) -> Setting | None:
        """From JSON; None where it holds anything else. Files of older versions say less."""
        known = {one.name: one for one in fields(cls)}
        if not isinstance(held, Mapping) or not held.keys() >= {"threads", "arena", "spinning"}:
            return None
        if not held.keys() <= known.keys() or held.get("level", "all") not in ("all", "extended"):
            return None
        counts = [held["threads"], held.get("blocks", 0)]
        if any(isinstance(one, bool) or not isinstance(one, int) or not 0 <= one <= _MOST_THREADS for one in counts):
            return None
        truths = [held["arena"], held["spinning"], held.get("pattern", True)]
        return cls(**held) if held["threads"] and all(isinstance(one, bool) for one in truths) else None


@dataclass(frozen=True)
class Advice:
    """What was measured of a model's settings.

    Attributes:
        recommended: the target's own, or what is clearly faster with as many threads.
        usual: the target's own, the runtime's defaults; the others are held against it.
        others: each with how many times as fast it is.
    """

    recommended: Setting
    usual: Setting
    others: tuple[tuple[Setting, Ratio], ...]

    def __str__(self) -> str:
        """One line for the report."""
        told = "; ".join(
            f"{one} {ratio.ratio:.2f} x ({ratio.low:.2f} … {ratio.high:.2f})" for one, ratio in self.others
        )
        return f"session settings recommended: {self.recommended}. Beside {self.usual}: {told}"


def advise(place: CpuTarget, model: Model, feeds: Feeds) -> Advice | None:
    """Time a model under a few settings, in alternation; None where it is too large to hold so many sessions.

    Args:
        place: the target; a phone's settings are its own and not chosen.
        model: as it will be saved.
        feeds: one call's inputs.
    """
    if place.mobile or storage(model.graph)[1] > _LARGEST_BYTES:
        return None
    usual = Setting(threads=place.threads)
    others = [replace(usual, arena=False), replace(usual, pattern=False), replace(usual, level="extended")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usual.threads > 1:
        others += [replace(usual, spinning=False), replace(usual, blocks=_BLOCKS), Setting(threads=1)]
    elif cores > 1:
        others += [Setting(threads=cores), Setting(threads=cores, spinning=False)]
    tried = (usual, *others)
    with written(model) as path:

        def timed(settings: Sequence[Setting]) -> list[Ratio]:
            jobs = [one.job() for one in settings]
            return [each.speedup for each in place.time_settings(path, feeds, jobs, budget_s=_BUDGET_S * len(jobs))]

        try:
            measured = tuple(zip(tried, timed(tried), strict=True))[1:]
            faster = [(ratio.ratio, at) for at, (one, ratio) in enumerate(measured) if _faster(one, ratio, usual)]
            recommended = measured[max(faster)[1]][0] if faster else usual
            # Of several settings one may look faster by chance: once more, against the usual alone.
            if faster and not _faster(recommended, timed((usual, recommended))[1], usual):
                recommended = usual
        except ModelError:
            # The clock's own news comes when the result is timed.
            return None
    return Advice(recommended, usual, measured)


def _faster(one: Setting, ratio: Ratio, usual: Setting) -> bool:
    # How many threads there are is the user's to say.
    return one.threads == usual.threads and ratio.low > _CLEARLY


def with_setting(model: Model, options: Mapping[str, Any]) -> Model:
    """The model with the settings that a plan's options hold; as it is where they hold none.

    Raises:
        PlanError: what stands there is no setting.
    """
    held = options.get("session")
    if held is None:
        return model
    setting = Setting.read(held)
    if setting is None:
        raise PlanError(f"The plan's session settings are damaged: {json.dumps(held)[:80]}. Make the plan anew.")
    return model.with_metadata(**{SESSION: json.dumps(asdict(setting), sort_keys=True)})


def setting_of(metadata: Mapping[str, str]) -> Setting | None:
    """What a file recommends; None where it holds nothing of the kind."""
    try:
        return Setting.read(json.loads(metadata.get(SESSION, "null")))
    except (ValueError, RecursionError):
        return None
