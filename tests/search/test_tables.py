"""Tables of milliseconds and errors: sums, monotony, and their way through JSON."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import PlanError
from onnxprune.search.levels import AS_IS, Level, choice_from_json, choice_to_json
from onnxprune.search.tables import ErrorTable, LatencyTable, monotone

LEVELS = st.builds(
    Level,
    units=st.none() | st.integers(0, 4096),
    rank=st.none() | st.integers(0, 512),
    bits=st.none() | st.sampled_from([4, 8]),
    sparsity=st.none() | st.sampled_from([0.5, 0.75]),
)
MS = st.floats(0, 1e3, allow_nan=False)

TABLE = LatencyTable(
    target="cpu:1",
    original_ms=10.0,
    rest_ms=1.0,
    places={"heads.0": {AS_IS: 4.0, Level(units=2): 3.0}, "neurons.0": {AS_IS: 5.0, Level(units=0, bits=8): 0.0}},
    check={"float": 0.98},
)


@given(LEVELS)
def test_a_level_reads_back_as_it_was_written(level: Level) -> None:
    assert Level.parse(str(level)) == level


@pytest.mark.parametrize("text", ["", "units", "units=x", "heads=3", "units=1,units"])
def test_what_is_no_level_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="Not a level"):
        Level.parse(text)


def test_a_run_takes_what_its_places_take_and_the_rest() -> None:
    assert TABLE.ms({}) == 10.0
    # 1 of the rest + 3 + 0
    assert TABLE.ms({"heads.0": Level(units=2), "neurons.0": Level(units=0, bits=8)}) == 4.0


def test_errors_count_by_their_weights_and_sizes_add_up() -> None:
    cut = Level(units=2)
    table = ErrorTable(
        places={"a": {AS_IS: 0.0, cut: 0.5}, "b": {AS_IS: 0.0, cut: 0.25}},
        weights={"b": 4.0},
        sizes={"a": {AS_IS: 100.0, cut: 60.0}, "b": {AS_IS: 50.0, cut: 20.0}},
        rest_bytes=7,
    )
    # 1·0.5 + 4·0.25; 7 + 60 + 50
    assert table.error({"a": cut, "b": cut}) == 1.5
    assert table.size({"a": cut}) == 117
    assert ErrorTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_a_latency_table_survives_json() -> None:
    assert LatencyTable.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE


@pytest.mark.parametrize(
    "damage",
    [{"places": []}, {"rest_ms": "much"}, {"rest_ms": float("nan")}, {"places": {"a": {"units=1": -1}}}, {"check": 3}],
)
def test_a_damaged_table_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="The latency table is damaged"):
        LatencyTable.from_json(TABLE.to_json() | damage)


def test_a_choice_survives_json() -> None:
    choice = {"heads.0": Level(units=3, bits=8), "linear.1": AS_IS}
    assert choice_from_json(json.loads(json.dumps(choice_to_json(choice)))) == choice


@given(st.dictionaries(LEVELS, MS, max_size=12))
def test_fewer_units_never_take_longer(row: dict[Level, float]) -> None:
    found = monotone(row)
    assert list(found) == list(row)
    assert all(found[level] <= row[level] for level in row)
    for one, other in itertools.permutations(found, 2):
        alike = (one.rank, one.bits, one.sparsity) == (other.rank, other.bits, other.sparsity)
        if alike and one.units is not None and (other.units is None or other.units > one.units):
            assert found[one] <= found[other]
