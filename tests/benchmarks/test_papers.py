"""The papers' table: what is asked is read from all seeds, and what was measured is not measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import papers
from benchmarks.papers_page import markdown
from benchmarks.papers_row import Check, Row, at_least, at_most, higher, lower, not_worse, spread

SEEDS: list[Mapping[str, float]] = [{"ours": 1.0, "theirs": 2.0}, {"ours": 1.5, "theirs": 1.4}]


@pytest.mark.parametrize(
    ("check", "holds", "figure"),
    [
        # The second seed has 1.5 against 1.4.
        (lower("ours", "theirs", ""), False, "ours 1.25 (1 … 1.5), theirs 1.7 (1.4 … 2)"),
        (higher("theirs", "ours", "", "%"), False, "theirs 1.7 (1.4 … 2), ours 1.25 (1 … 1.5) %"),
        # Means 1.7 and 1.25; theirs differ by 0.6, which 0.45 is under.
        (not_worse("theirs", "ours", ""), True, "theirs 1.7 (1.4 … 2), ours 1.25 (1 … 1.5); seeds differ by 0.6"),
        (at_most("ours", 1.5, ""), True, "ours 1.25 (1 … 1.5)"),
        (at_most("ours", 1.4, ""), False, "ours 1.25 (1 … 1.5)"),
        (at_least("theirs", 1.4, ""), True, "theirs 1.7 (1.4 … 2)"),
        (at_least("theirs", 1.5, ""), False, "theirs 1.7 (1.4 … 2)"),
    ],
)
def test_a_check_holds_only_where_every_seed_says_so(check: Check, holds: bool, figure: str) -> None:
    verdict = check.verdict(SEEDS)
    assert (verdict.holds, verdict.figure) == (holds, figure)


def test_equal_figures_have_no_spread() -> None:
    assert spread([{"a": 3.0}, {"a": 3.0}], "a") == "3"


def made_up(ran: list[int]) -> Row:
    def run(seed: int) -> dict[str, float]:
        ran.append(seed)
        return {"ours": 1.0 + seed, "theirs": 2.5}

    return Row(
        system=6,
        name="made-up",
        paper="Nobody 1900",
        headline="ours is lower",
        source="nowhere",
        checks=(at_most("ours", 3.0, "ours is at most 3"), lower("ours", "theirs", "ours is lower")),
        run=run,
    )


def test_seeds_that_were_measured_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    row = made_up(ran)
    monkeypatch.setattr(papers, "HOMES", {"papers_here.json": (row,)})
    monkeypatch.setattr(papers, "ROWS", (row,))
    assert papers.main(["--seeds", "2", "--folder", str(tmp_path)]) == 0
    assert papers.main(["--folder", str(tmp_path)]) == 0
    assert ran == [0, 1, 2]
    assert papers.main(["--only", "made-up", "--seeds", "1", "--again", "--folder", str(tmp_path)]) == 0
    assert ran == [0, 1, 2, 0]
    held = json.loads((tmp_path / "papers_here.json").read_text())
    assert [entry["figures"] for entry in held["made-up"]["seeds"].values()] == [{"ours": 1.0, "theirs": 2.5}]


def test_the_page_names_the_check_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = made_up([])
    monkeypatch.setattr(papers, "HOMES", {"papers_here.json": (row,)})
    monkeypatch.setattr(papers, "ROWS", (row,))
    papers.main(["--folder", str(tmp_path)])
    page = (tmp_path / "papers.md").read_text()
    # Seed 2 gives 3.0, which is at most 3 but not lower than 2.5.
    assert page.splitlines()[10].endswith(
        "| 3 | (1) ours 2 (1 … 3); (2) ours 2 (1 … 3), theirs 2.5 | **does not hold here**: (2) |"
    )
    assert "not measured |" in markdown([row], {})


def test_each_system_has_one_row() -> None:
    systems = [row.system for row in papers.ROWS]
    assert sorted(set(systems)) == systems
    assert all(1 <= system <= 13 for system in systems)
