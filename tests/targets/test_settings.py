"""Session settings that a file recommends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxprune.errors import PlanError
from onnxprune.inspection import inspect
from onnxprune.model import Model, load, save
from onnxprune.runtime import Feeds
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.settings import SESSION, Setting, advise, setting_of, with_setting
from onnxprune.targets.timing import Latency, Ratio, Timed
from tests.building import Net


def model() -> Model:
    net = Net()
    net.output(net.linear(net.input("x", ("b", 16)), 16, 16))
    return net.model()


@dataclass(frozen=True)
class Told(CpuTarget):
    """A processor whose clock is told what to say of every setting but the usual one."""

    low: float = 1.0

    def time_settings(
        self, path: Path, feeds: Feeds, settings: Sequence[Mapping[str, Any]], *, budget_s: float
    ) -> tuple[Timed, ...]:
        """As told."""
        del path, feeds, budget_s
        ratios = [Ratio(1, 1, 1, 11), *[Ratio(self.low + 0.1, self.low, self.low + 0.2, 11)] * (len(settings) - 1)]
        return tuple(Timed(name="m", load_ms=1.0, latency_ms=Latency(1, 1, 1), speedup=ratio) for ratio in ratios)


def test_a_model_is_timed_under_each_setting() -> None:
    net = Net()
    net.output(net.linear(net.input("x", ("b", 16)), 16, 16))
    advice = advise(CpuTarget(), net.model(), net.feeds({"b": 2}))
    assert advice is not None
    assert advice.usual == Setting(threads=1)
    assert advice.recommended.threads == 1
    assert all(ratio.runs >= 11 for _, ratio in advice.others)


def test_the_usual_settings_stay_where_nothing_is_clearly_faster() -> None:
    """1.02 as the low end of the interval is within what the clock cannot tell from noise."""
    advice = advise(Told(low=1.02), model(), {})
    assert advice is not None
    assert advice.recommended == Setting(threads=1)


class Chance(Told):
    """A clock by which a setting is faster among many, and not by itself."""

    def time_settings(
        self, path: Path, feeds: Feeds, settings: Sequence[Mapping[str, Any]], *, budget_s: float
    ) -> tuple[Timed, ...]:
        """As told, of more than two settings."""
        teller = self if len(settings) > 2 else Told(low=1.0)
        return Told.time_settings(teller, path, feeds, settings, budget_s=budget_s)


def test_what_looks_faster_among_many_is_timed_once_more_by_itself() -> None:
    advice = advise(Chance(low=1.2), model(), {})
    assert advice is not None
    assert advice.recommended == advice.usual


def test_what_is_clearly_faster_is_recommended_but_for_other_threads_than_asked() -> None:
    advice = advise(Told(threads=4, low=1.2), model(), {})
    assert advice is not None
    assert Setting(threads=1) in [one for one, _ in advice.others]
    # The last of those that are as fast.
    assert advice.recommended == Setting(threads=4, blocks=4)
    assert str(advice).startswith(
        "session settings recommended: 4 threads, arena on, spinning on, work in blocks of 1/4. "
        "Beside 4 threads, arena on, spinning on: "
        "4 threads, arena off, spinning on 1.30 x (1.20 … 1.40)"
    )


def test_each_setting_is_said_in_words_where_it_is_not_the_usual_one() -> None:
    one = Setting(threads=2, pattern=False, level="extended", blocks=4)
    assert str(one) == (
        "2 threads, arena on, spinning on, memory pattern off, extended optimizations, work in blocks of 1/4"
    )
    assert one.job() == {
        "threads": 2, "arena": True, "pattern": False, "level": "extended",
        "config": {"session.force_spinning_stop": "1", "session.dynamic_block_base": "4"},
    }  # fmt: skip


def test_a_file_of_an_older_version_says_less() -> None:
    held = {"threads": 2, "arena": False, "spinning": True}
    assert setting_of({SESSION: json.dumps(held)}) == Setting(threads=2, arena=False)


def test_a_phones_settings_are_not_chosen() -> None:
    assert advise(CpuTarget(mobile=True), model(), {}) is None


def test_a_file_keeps_its_settings_and_inspect_tells_them(tmp_path: Path) -> None:
    setting = Setting(threads=2, spinning=False)
    path = tmp_path / "m.onnx"
    save(with_setting(model(), {"session": asdict(setting)}), path)
    assert setting_of(load(path).metadata) == setting
    assert "session settings recommended: 2 threads, arena on, spinning off" in inspect(path).notes


def test_a_plan_without_settings_leaves_a_model_as_it_is() -> None:
    assert SESSION not in with_setting(model(), {}).metadata


@pytest.mark.parametrize(
    "held",
    [
        {"threads": 0, "arena": True, "spinning": True},
        {"threads": True, "arena": True, "spinning": True},
        {"threads": 1, "arena": "yes", "spinning": True},
        {"threads": 1},
        {"threads": 1, "arena": True, "spinning": True, "level": "none"},
        {"threads": 1, "arena": True, "spinning": True, "blocks": -1},
        {"threads": 1, "arena": True, "spinning": True, "pattern": 1},
        {"threads": 1, "arena": True, "spinning": True, "more": 1},
        [1],
    ],
)
def test_damaged_settings_are_told(held: Any) -> None:
    with pytest.raises(PlanError) as caught:
        with_setting(model(), {"session": held})
    assert str(caught.value) == f"The plan's session settings are damaged: {json.dumps(held)}. Make the plan anew."
    # Of a stranger's file they are no more than a remark.
    assert setting_of({SESSION: json.dumps(held)}) is None
    assert setting_of({SESSION: "{"}) is None
