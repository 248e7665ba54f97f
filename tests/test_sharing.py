"""Work that others may do: here it is done at once, or as it is asked for; reasons come when results are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.cluster.lending import Lender, Stored
from onnxprune.errors import Declined
from onnxprune.graph import constants
from onnxprune.model import load
from onnxprune.sharing import begin, each, shared_by
from onnxprune.solvers.obs import Consumer
from tests import graphs

LARGE = np.arange(1 << 14, dtype=np.float64).reshape(128, 128)


def refused(work: int) -> int:
    if work == 2:
        raise Declined("two is refused")
    return 10 * work


def test_what_nobody_shares_is_done_here_at_once() -> None:
    done: list[int] = []
    answer = begin(done.append, 1)
    assert done == [1]
    assert answer() is None
    assert begin(refused, 1)() == 10


def test_a_reason_comes_when_the_result_is_asked_for() -> None:
    answer = begin(refused, 2)
    with pytest.raises(Declined, match="two is refused"):
        answer()
    answers = list(each(refused, [1, 2, 3]))
    assert answers[0]() == 10
    with pytest.raises(Declined, match="two is refused"):
        answers[1]()
    assert answers[2]() == 30


def test_here_each_piece_is_made_and_done_in_its_turn() -> None:
    said: list[str] = []

    def works() -> Iterator[int]:
        for at in range(2):
            said.append(f"made {at}")
            yield at

    for answer in each(lambda work: said.append(f"done {work}"), works()):
        answer()
    assert said == ["made 0", "done 0", "made 1", "done 1"]


def test_others_are_given_pieces_ahead_of_time() -> None:
    begun: list[int] = []

    class Crew:
        """Remembers what it was given."""

        def begin(self, function: Callable[[Any], Any], work: Any) -> Callable[[], Any]:
            """Do it when asked."""
            begun.append(work)
            return lambda: function(work)

    with shared_by(Crew()):
        answers = each(refused, [3, 4, 5])
        assert next(answers)() == 30
        assert begun == [3, 4, 5]
        assert [answer() for answer in answers] == [40, 50]


def test_data_comes_back_as_it_was_lent(tmp_path: Path) -> None:
    work = (Consumer(weight=LARGE, gram=np.asfortranarray(LARGE), groups=np.arange(4)[:, None], mean=None), "x", 2.5)
    lent, held = Lender(tmp_path, "lent").lend(work)
    back = lent.value()
    assert back[1:] == ("x", 2.5)
    for name in ("weight", "gram", "groups"):
        before, after = getattr(work[0], name), getattr(back[0], name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    # Products of either order round differently, so the order is kept.
    assert back[0].gram.flags.f_contiguous
    assert not back[0].gram.flags.c_contiguous
    assert isinstance(lent.arrays["0"], Stored)
    assert isinstance(lent.arrays["2"], np.ndarray)
    assert held


def test_an_array_is_written_once_and_goes_with_the_last_loan(tmp_path: Path) -> None:
    lender = Lender(tmp_path, "lent")
    array = LARGE.copy()
    first, second = lender.lend(array), lender.lend((array, array))
    assert len(list(tmp_path.iterdir())) == 1
    del first
    assert len(list(tmp_path.iterdir())) == 1
    del second
    assert not list(tmp_path.iterdir())
    # It can be lent again.
    again = lender.lend(array)
    np.testing.assert_array_equal(again[0].value(), array)


def test_what_lies_in_a_file_that_all_read_is_not_written(tmp_path: Path) -> None:
    # 512 x 64 numbers of 4 bytes are 128 KiB.
    path = graphs.saved(graphs.matmul(rows=512), tmp_path)
    folder = tmp_path / "shared"
    folder.mkdir()
    (weight,) = constants(load(path).graph)
    lent, _ = Lender(folder, "lent", known=[path]).lend(weight.values)
    assert not list(folder.iterdir())
    np.testing.assert_array_equal(lent.value(), weight.values)
    held = lent.arrays["0"]
    assert isinstance(held, Stored)
    assert held.path == str(path.resolve())
    # Of a file that not all read it is a copy.
    Lender(folder, "lent").lend(weight.values)
