"""A plan for several targets: what is slower on one of them is slower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.errors import OptionError, TargetError
from onnxprune.runtime import Feeds
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.environments import Missing
from onnxprune.targets.forecast import NNAPI, ForecastTarget
from onnxprune.targets.placement import Placement
from onnxprune.targets.timing import REFUSED, SLOWER, Timed
from onnxprune.targets.together import Together, refusals, together, too_slow
from tests.search.working import timed

# What a refused model has for a speed-up.
NEVER = 1e-6
FEEDS: Feeds = {"x": np.ones(1, np.float32)}


class Scripted:
    """Takes the milliseconds that a table holds for a file; a word instead of a number is how it fails."""

    about = ""
    threads = 1
    signs = ("u8s8",)
    latency: Literal["wall"] = "wall"

    def __init__(self, name: str, **ms: float | str) -> None:
        self.name = name
        self.ms = ms

    def probe(self) -> Missing | None:
        """It is always there."""
        return None

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """As the table says."""
        del feeds, budget_s
        for at, path in enumerate(paths):
            if self.ms[path.stem] == "refused":
                raise TargetError(f"{path.name}: {self.name} refuses it", model=at)
        if any(self.ms[path.stem] == "dies" for path in paths):
            raise TargetError(f"{self.name}: its process was ended by SIGSEGV")
        return timed(paths, [float(self.ms[path.stem]) for path in paths])

    def run(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Mapping[str, np.ndarray[Any, Any]], ...]:
        """Nobody asks."""
        raise NotImplementedError

    def place(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Placement, ...]:
        """Nobody asks."""
        raise NotImplementedError


PATHS = [Path("a.onnx"), Path("b.onnx"), Path("c.onnx")]


def ratios(*places: Scripted) -> list[float]:
    return [timed.speedup.ratio for timed in Together(places).time(PATHS, FEEDS)]


def test_the_least_speed_up_counts_and_the_first_target_gives_the_figures() -> None:
    both = Together((Scripted("one", a=8, b=2, c=4), Scripted("two", a=6, b=12, c=2)))
    found = both.time(PATHS, FEEDS)
    assert [timed.speedup.ratio for timed in found] == [1, 0.5, 2]
    assert [timed.latency_ms.median for timed in found] == [8, 2, 4]
    assert both.name == "one+two"


def test_a_model_that_a_target_refuses_is_no_choice_and_the_reason_is_kept() -> None:
    both = Together((Scripted("one", a=8, b=2, c=4), Scripted("two", a=6, b="refused", c=3)))
    assert [timed.speedup.ratio for timed in both.time(PATHS, FEEDS)] == [1, NEVER, 2]
    assert refusals(both) == ("b.onnx: two refuses it",)


def test_a_model_that_kills_a_process_is_found_out() -> None:
    assert ratios(Scripted("one", a=8, b="dies", c=4)) == [1, NEVER, 2]
    assert ratios(Scripted("one", a=8, b="dies", c="dies")) == [1, NEVER, NEVER]
    assert ratios(Scripted("one", a=8, b="refused", c="dies")) == [1, NEVER, NEVER]


@pytest.mark.parametrize("fate", ["refused", "dies"])
def test_a_target_that_cannot_take_the_first_model_is_an_error(fate: str) -> None:
    with pytest.raises(TargetError, match="one"):
        ratios(Scripted("one", a=fate, b=1, c=1))


def model(path: Path, *operators: str) -> Path:
    nodes = [helper.make_node(op, [f"t{at}"], [f"t{at + 1}"]) for at, op in enumerate(operators)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("t0", f"t{len(operators)}")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_forecast_forbids_what_would_leave_the_provider(tmp_path: Path) -> None:
    paths = [model(tmp_path / "a.onnx", "Relu", "Tanh"), model(tmp_path / "b.onnx", "Relu", "Erf", "Tanh")]
    paths.append(model(tmp_path / "c.onnx", "Relu"))
    both = Together((Scripted("one", a=8, b=2, c=4), ForecastTarget(NNAPI)))
    assert [timed.speedup.ratio for timed in both.time(paths, FEEDS)] == [1, NEVER, 2]
    assert refusals(both) == (
        "b.onnx: nnapi would take 2 of 3 nodes on Nnapi in 2 partitions, and all 2 nodes on Nnapi before",
    )


def test_of_many_reasons_the_first_are_told() -> None:
    place = Together((Scripted("one"),), refused=dict.fromkeys(f"reason {at}" for at in range(5)))
    assert refusals(place) == ("reason 0", "reason 1", "reason 2", "2 others likewise")


def test_forecasts_alone_decide_nothing() -> None:
    with pytest.raises(OptionError) as caught:
        together([ForecastTarget(NNAPI)])
    assert str(caught.value) == (
        "Nothing runs on nnapi: a forecast. Name a target that runs as well, for example --target cpu:1."
    )


def test_the_processor_alone_is_asked_itself() -> None:
    alone = CpuTarget(2)
    assert together([alone]) is alone


def test_of_several_targets_none_may_be_slowed_and_one_alone_may_not_refuse() -> None:
    one, two = Scripted("one"), Scripted("two")
    assert too_slow(CpuTarget()) is None
    assert too_slow(Together((one,))) == REFUSED
    assert too_slow(Together((one, two))) == SLOWER
