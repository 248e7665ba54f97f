"""Independent pieces of work: done here as they come, or by those who share it, such as the workers of a cluster.

A piece is a function of plain data that depends on nothing else, so that who does it changes nothing but the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Never, Protocol, TypeVar

from onnxprune.errors import Declined

W = TypeVar("W")
R = TypeVar("R")

# Pieces begun before the first is asked for: enough for a few workers, and few enough to lie on disk.
_AHEAD = 64


class Crew(Protocol):
    """Those who share work."""

    def begin(self, function: Callable[[W], R], work: W) -> Callable[[], R]:
        """As `begin` below."""


_crew: ContextVar[Crew | None] = ContextVar("crew", default=None)


def begin(function: Callable[[W], R], work: W) -> Callable[[], R]:
    """Have a piece of work done; what comes back is called for its result, which it may have to wait for.

    Args:
        function: of a module, and of nothing but `work`. Where it raises Declined, asking for the result does.
        work: dataclasses, sequences, arrays, texts and numbers, nested; so is the result.
    """
    crew = _crew.get()
    if crew is not None:
        return crew.begin(function, work)
    try:
        found = function(work)
    except Declined as reason:
        return partial(_refuse, reason)
    return lambda: found


def each(function: Callable[[W], R], works: Iterable[W]) -> Iterator[Callable[[], R]]:
    """As `begin`, of several pieces in turn: here each is done as it is asked for, elsewhere some ahead of that."""
    if _crew.get() is None:
        for work in works:
            yield partial(function, work)
        return
    under_way: deque[Callable[[], R]] = deque()
    for work in works:
        under_way.append(begin(function, work))
        if len(under_way) > _AHEAD:
            yield under_way.popleft()
    yield from under_way


def _refuse(reason: Declined) -> Never:
    raise reason


@contextmanager
def shared_by(crew: Crew | None) -> Iterator[None]:
    """Work that is begun in this block is done by `crew`; here, where that is None."""
    token = _crew.set(crew)
    try:
        yield
    finally:
        _crew.reset(token)
