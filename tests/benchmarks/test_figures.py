import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure import measure
from benchmarks.paired import paired_ratio
from benchmarks.scores import Score, auc, f1, mean, ratio, spearman
from benchmarks.tables import table


def _score(values: list[float], *, higher_is_better: bool = True) -> Score:
    items = np.array(values)[:, None]
    return Score(task="t", items=items, statistic=mean, higher_is_better=higher_is_better)


def test_a_difference_is_taken_item_by_item() -> None:
    # Items differ widely, but each by exactly 0.5: the paired interval has no width, the plain one has.
    reference = _score([0.0, 10.0, 20.0, 30.0])
    own = _score([0.5, 10.5, 20.5, 30.5])
    assert own.against(reference) == pytest.approx((0.5, 0.5, 0.5))
    low, high = own.interval()
    assert high - low > 1


def test_a_loss_is_positive_where_the_score_is_worse() -> None:
    assert _score([0.4]).loss(_score([0.5])) == pytest.approx(0.1)
    assert _score([0.4], higher_is_better=False).loss(_score([0.5], higher_is_better=False)) == pytest.approx(-0.1)


def test_scores_on_different_items_are_not_paired() -> None:
    with pytest.raises(ValueError, match=r"^t: 1 items cannot be paired with 2\.$"):
        _score([1.0]).against(_score([1.0, 2.0]))


def test_statistics_have_their_textbook_values() -> None:
    # Two errors in ten characters; a monotone relation; of 2·2 pairs three in order; 3 hits of 4 found and 5 wanted.
    assert ratio(np.array([[1.0, 6], [1, 4]])) == pytest.approx(0.2)
    assert spearman(np.array([[1.0, 1], [2, 8], [3, 27]])) == pytest.approx(1)
    assert auc(np.array([[0.9, 1], [0.4, 1], [0.5, 0], [0.1, 0]])) == pytest.approx(3 / 4)
    assert f1(np.array([[1.0, 2, 2], [2, 2, 3]])) == pytest.approx(2 * 3 / (4 + 5))


def test_a_paired_ratio_ignores_a_machine_that_slows_down_for_both() -> None:
    drift = np.linspace(1, 3, 50)
    assert paired_ratio(2 * drift, drift) == pytest.approx((2, 2, 2))


def test_a_command_is_charged_with_its_own_memory_only() -> None:
    # 80 MB held by the caller must not be counted; 60 MB held by the command must.
    held = np.ones(10_000_000)
    idle = measure([sys.executable, "-I", "-c", ""])
    busy = measure([sys.executable, "-I", "-c", "x = b'1' * 60_000_000"])
    assert held.nbytes == 80_000_000
    assert idle.exit_code == 0
    assert 0 < idle.peak_mb < 40
    assert 50 < busy.peak_mb - idle.peak_mb < 70


def test_a_command_that_fails_or_hangs_says_so(tmp_path: Path) -> None:
    assert measure([sys.executable, "-c", "print('out'); raise SystemExit(3)"]).exit_code == 3
    assert measure(["sleep", "30"], timeout=0.2).exit_code == 124
    missing = measure([tmp_path / "nothing"])
    assert missing.exit_code == 127
    assert "No such file" in missing.stderr


def test_a_bar_in_a_cell_does_not_split_it() -> None:
    assert table(("a",), [("b|c",)]) == "| a |\n| --- |\n| b\\|c |"
