"""Integer types by the clock: the target's likeliest stands unless another is clearly faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from onnxprune.model import Model
from onnxprune.passes import SparseInt8
from onnxprune.plan import Edit, Report
from onnxprune.reverting import Trial
from onnxprune.suiting import suit_integers
from onnxprune.targets.timing import Ratio
from tests.building import Net

STATIC = Edit(id="a", pass_name="p", site="conv.0", kind="k", args={"signs": "s8s8"})
DYNAMIC = Edit(id="b", pass_name="p", site="linear.0", kind="k", args={})
FIRST = ("s8s8", "u8s8", "u8u8")


def suited(
    speeds: dict[str, float], *, one: SparseInt8 | None = None, broken: Sequence[str] = (), signs: Sequence[str] = FIRST
) -> tuple[str, list[str], list[int]]:
    """The types that stand, the sites told of in the report, and how many models raced."""
    made: dict[int, str] = {}
    raced: list[int] = []

    def attempt(edits: Sequence[Edit]) -> Trial:
        net = Net()
        net.output(net.input("x", [1]))
        model = net.model()
        name = str(edits[0].args["signs"])
        made[id(model)] = name
        kept.append(model)
        trial = Trial(model, tuple(edits), Report(pass_spec="p"))
        return replace(trial, broken="no kernel") if name in broken else trial

    def race(models: Sequence[Model]) -> list[Ratio]:
        raced.append(len(models))
        return [Ratio(speeds[made[id(model)]], 0.0, 0.0, 11) for model in models]

    kept: list[Model] = []
    found = suit_integers(attempt((STATIC, DYNAMIC)), one or SparseInt8(), signs, attempt, race)
    assert found.edits[1] == DYNAMIC
    return str(found.edits[0].args["signs"]), [skip.site for skip in found.report.reverted], raced


def test_a_draw_stays_with_the_targets_likeliest() -> None:
    assert suited({"s8s8": 1, "u8s8": 1.01, "u8u8": 0.9}) == ("s8s8", [], [3])


def test_what_is_clearly_faster_is_taken_and_told() -> None:
    assert suited({"s8s8": 1, "u8s8": 1.5, "u8u8": 1.2}) == ("u8s8", ["conv.0"], [3])


def test_what_a_check_refuses_does_not_race() -> None:
    assert suited({"s8s8": 1, "u8u8": 2}, broken=["u8s8"]) == ("u8u8", ["conv.0"], [2])


@pytest.mark.parametrize("one", [SparseInt8(signs="s8s8"), SparseInt8()])
def test_one_type_is_no_choice(one: SparseInt8) -> None:
    signs = FIRST if one.signs != "auto" else ("s8s8",)
    assert suited({}, one=one, signs=signs) == ("s8s8", [], [])
