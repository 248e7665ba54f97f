"""Goals as users write them."""

from __future__ import annotations

import math

import pytest

from onnxprune.errors import OptionError
from onnxprune.search.goal import Goal, parse_factor, parse_latency, parse_share_or_size


@pytest.mark.parametrize(("text", "ms"), [("5ms", 5.0), ("300us", 0.3), ("0.2s", 200.0), ("5 ms", 5.0)])
def test_a_latency_is_a_number_with_a_unit(text: str, ms: float) -> None:
    assert math.isclose(parse_latency(text), ms)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0.2x", (0.2, None)), ("20MB", (None, 20_000_000)), ("1.5MiB", (None, 1_572_864)), ("900kB", (None, 900_000))],
)
def test_a_size_is_a_share_or_bytes(text: str, size: tuple[float | None, int | None]) -> None:
    assert parse_share_or_size(text) == size


@pytest.mark.parametrize(("text", "factor"), [("2", 2.0), ("1.5x", 1.5)])
def test_a_factor_is_a_number(text: str, factor: float) -> None:
    assert parse_factor("speedup", text) == factor


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_latency("5"), "--latency must be a time such as 5ms (units: us, ms, s), got '5'."),
        (
            lambda: parse_share_or_size("many"),
            ("--size must be a share such as 0.2x or a size such as 20MB, got 'many'."),
        ),
        (lambda: parse_factor("speedup", "fast"), "--speedup must be a factor such as 2, got 'fast'."),
        (lambda: parse_factor("speedup", "nan"), "--speedup must be a factor such as 2, got 'nan'."),
        (lambda: Goal(speedup=0), "speedup must be above 0, got 0."),
        (lambda: Goal(latency_ms=-1.0), "latency must be above 0, got -1.0."),
        (lambda: Goal(size_share=2.0), "size must be a share of the original's bytes up to 1, got 2."),
        (
            lambda: Goal(fidelity=1.5),
            "fidelity must be at most 1 (a perfect copy), got 1.5. Give a share such as 0.95.",
        ),
        (
            lambda: Goal(metric="labels"),
            "metric and max-drop belong together: a metric, and by how much it may fall.",
        ),
        (lambda: Goal(best=True), "best needs a floor. Give fidelity, or metric and max-drop."),
        (
            lambda: Goal(best=True, fidelity=0.9, speedup=2.0),
            "best asks for the fastest model above the floor: give no speed or size with it.",
        ),
    ],
)
def test_what_is_no_goal_is_refused_in_one_line(call: object, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        call()  # type: ignore[operator]
    assert str(caught.value) == message


def test_a_floor_alone_searches_for_nothing() -> None:
    assert not Goal(fidelity=0.9).searches
    assert not Goal().searches
    assert Goal(speedup=2.0).searches
    assert Goal(metric="labels", max_drop=0.01).searches


def test_limits_are_the_stricter_of_what_was_asked() -> None:
    goal = Goal(speedup=2.0, latency_ms=4.0, size_share=0.5, size_bytes=60)
    # 10 / 2 = 5 ms allowed by the ratio, 4 ms by the latency; 0.5 · 100 = 50 bytes by the share.
    assert goal.most_ms(10.0) == 4.0
    assert goal.most_bytes(100) == 50.0
    assert Goal().most_ms(10.0) == math.inf
    assert goal.asked() == {"speedup": 2.0, "latency_ms": 4.0, "size_share": 0.5, "size_bytes": 60}
