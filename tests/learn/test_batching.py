"""Samples side by side: which may be, in what order, and that the order is the seed's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.learn.batching import Batches
from onnxprune.runtime import Port

Array = np.ndarray[Any, Any]
INT, FLOAT = np.dtype(np.int64), np.dtype(np.float32)
PORTS = (Port("ids", INT, ("batch", "sequence")), Port("attention_mask", INT, ("batch", "sequence")))


def samples(count: int = 10) -> list[Mapping[str, Array]]:
    made: list[Mapping[str, Array]] = []
    for at in range(count):
        mask = np.zeros((1, 8), np.int64)
        mask[0, : 1 + at % 8] = 1
        made.append({"ids": np.full((1, 8), at), "attention_mask": mask})
    return made


def rows(feeds: Mapping[str, Array]) -> dict[str, Any]:
    return {"y": feeds["ids"].astype(np.float32)}


def batches(run: Any = rows, size: int = 4, seed: int = 0, mask: str | None = "attention_mask") -> Batches:
    return Batches(samples(), PORTS, size, seed, run=run, mask=mask)


def seen(source: Batches, step: int, count: int) -> list[list[int]]:
    steps = source.from_step(step)
    return [[int(i) for feeds, _ in next(steps).parts for i in feeds["ids"][:, 0]] for _ in range(count)]


def test_samples_stand_side_by_side_without_the_padding_of_all() -> None:
    batch = next(batches().from_step(0))
    ((feeds, share),) = batch.parts
    assert share == 1
    longest = int(feeds["attention_mask"].any(axis=0).sum())
    assert feeds["ids"].shape == (4, longest)


def test_the_order_is_the_seeds_and_continues_at_any_step() -> None:
    whole = seen(batches(), 0, 6)
    assert seen(batches(), 0, 6) == whole
    assert seen(batches(), 3, 3) == whole[3:]
    assert seen(batches(seed=1), 0, 6) != whole


def test_an_epoch_holds_no_sample_twice() -> None:
    # Ten samples in batches of four: two steps an epoch.
    first = [at for step in seen(batches(), 0, 2) for at in step]
    assert len(set(first)) == len(first) == 8


def test_a_model_that_mixes_its_rows_gets_one_sample_at_a_time() -> None:
    def mixing(feeds: Mapping[str, Array]) -> dict[str, Any]:
        ids = feeds["ids"].astype(np.float32)
        return {"y": ids + ids.mean()}

    batch = next(batches(mixing).from_step(0))
    assert len(batch.parts) == 4
    assert sum(share for _, share in batch.parts) == 1


def test_a_model_of_fixed_batch_gets_one_sample_at_a_time() -> None:
    ports = (Port("ids", INT, (1, 8)), Port("attention_mask", INT, (1, 8)))
    batch = next(Batches(samples(), ports, 4, 0, run=rows).from_step(0))
    assert len(batch.parts) == 4


def test_samples_of_several_shapes_are_grouped() -> None:
    made = [{"x": np.ones((1, 2 + at % 2), np.float32)} for at in range(8)]
    ports = (Port("x", FLOAT, ("batch", "length")),)
    source = Batches(made, ports, 8, 0, run=lambda feeds: {"y": feeds["x"]})
    batch = next(source.from_step(0))
    assert sorted((feeds["x"].shape, share) for feeds, share in batch.parts) == [((4, 2), 0.5), ((4, 3), 0.5)]
