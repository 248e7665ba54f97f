"""Samples put side by side: several feeds of one call each as one feed, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.padding import cropped
from onnxprune.runtime import Feeds, Port

Array = np.ndarray[Any, Any]
Run = Callable[[Feeds], Mapping[str, Any]]

# So many batches are sorted by length together: short samples meet short ones, and the order stays random.
_POOL = 16
# Float rounding of a model that computes rows apart; one that mixes them moves far more.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Batch:
    """Feeds of one step.

    Attributes:
        parts: feeds that are run one after the other, and the share of the step's samples in each.
        samples: how many there are in all.
        rows: which samples make up each part, in its order.
    """

    parts: tuple[tuple[Feeds, float], ...]
    samples: int
    rows: tuple[tuple[int, ...], ...] = ()


class Batches:
    """Steps over samples, the same for the same seed."""

    def __init__(
        self,
        samples: Sequence[Feeds],
        ports: Sequence[Port],
        size: int,
        seed: int,
        *,
        run: Run,
        mask: str | None = None,
    ) -> None:
        """Look whether samples can be put side by side.

        Args:
            samples: one whole feed each.
            ports: the model's inputs.
            size: samples of a step.
            seed: of the order.
            run: the model, which shows on two samples whether their rows stay apart.
            mask: the input [batch, sequence] that is 0 at padded tokens, if its padding may be cut off.
        """
        self._samples = samples
        self._ports = ports
        self._size = max(1, min(size, len(samples)))
        self._seed = seed
        self._mask = mask
        self._lengths = [self._length(feeds) for feeds in samples]
        self.stacks = len(samples) > 1 and _rows_stay_apart(samples, ports, run)

    def _length(self, feeds: Feeds) -> int:
        if self._mask is not None:
            return int(np.asarray(feeds[self._mask]).any(axis=0).sum())
        return sum(int(np.asarray(value).size) for value in feeds.values())

    def from_step(self, step: int) -> Iterator[Batch]:
        """Batches from a step on, without end; each epoch has an order of its own."""
        per_epoch = max(1, len(self._samples) // self._size)
        epoch, first = divmod(step, per_epoch)
        while True:
            yield from (self._batch(rows) for rows in self._epoch(epoch)[first:])
            epoch, first = epoch + 1, 0

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, in the order in which they came."""
        rows = range(len(self._samples))
        yield from (self._batch(rows[at : at + self._size]) for at in rows[:: self._size])

    def _epoch(self, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng((self._seed, epoch))
        order = [int(at) for at in generator.permutation(len(self._samples))]
        groups: list[list[int]] = []
        for start in range(0, len(order), _POOL * self._size):
            pool = sorted(order[start : start + _POOL * self._size], key=lambda at: (self._lengths[at], at))
            whole = [pool[at : at + self._size] for at in range(0, len(pool) - self._size + 1, self._size)]
            groups += [whole[int(at)] for at in generator.permutation(len(whole))]
        return groups

    def _batch(self, rows: Sequence[int]) -> Batch:
        groups: dict[Any, list[tuple[int, Feeds]]] = {}
        for at in rows:
            one = self._samples[at]
            key = tuple((name, np.shape(value)) for name, value in sorted(one.items())) if self.stacks else at
            groups.setdefault(key, []).append((at, one))
        members = [tuple(at for at, _ in group) for group in groups.values()]
        joint = [self._joined([one for _, one in group]) for group in groups.values()]
        shares = [len(each) / len(rows) for each in members]
        return Batch(tuple(zip(joint, shares, strict=True)), len(rows), tuple(members))

    def _joined(self, group: Sequence[Feeds]) -> Feeds:
        whole = group[0] if len(group) == 1 else joined(group, self._ports)
        if self._mask is None:
            return whole
        return cropped(whole, self._mask, self._ports) or whole


def joined(group: Sequence[Feeds], ports: Sequence[Port]) -> Feeds:
    """Feeds side by side along the batch axis; inputs without one are those of the first."""
    batched = {port.name for port in ports if port.shape and not isinstance(port.shape[0], int)}
    return {
        name: np.concatenate([np.asarray(feeds[name]) for feeds in group]) if name in batched else value
        for name, value in group[0].items()
    }


def _rows_stay_apart(samples: Sequence[Feeds], ports: Sequence[Port], run: Run) -> bool:
    """Whether a model gives two samples side by side what it gives each alone."""
    first = samples[0]
    second = next((one for one in samples[1:] if _alike(one, first)), None)
    fixed = [port.name for port in ports if not port.shape or isinstance(port.shape[0], int)]
    if second is None or len(fixed) == len(ports):
        return False
    if any(not np.array_equal(first[name], one[name]) for one in samples[:64] for name in fixed if name in first):
        return False
    try:
        together = run(joined([first, second], ports))
        apart = [run(one) for one in (first, second)]
    except Exception:  # noqa: BLE001 - whatever refuses two samples takes one
        return False
    return all(_is_joined(value, [one[name] for one in apart]) for name, value in together.items())


def _is_joined(value: Any, parts: Sequence[Any]) -> bool:
    """Whether an output is that of each sample, one behind the other."""
    if not isinstance(value, np.ndarray) or any(np.ndim(part) == 0 for part in parts):
        return False
    wanted = np.concatenate(parts)
    if wanted.shape != value.shape:
        return False
    if wanted.dtype.kind != "f" or not wanted.size:
        return True
    with np.errstate(invalid="ignore"):
        # Infinities on both sides have no difference, and are none.
        return bool(np.abs(value - wanted).max() <= _TOLERANCE * max(float(np.abs(wanted).max()), 1e-6))


def _alike(one: Feeds, other: Feeds) -> bool:
    return all(np.shape(one[name]) == np.shape(value) for name, value in other.items())
