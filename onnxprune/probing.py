"""Feeds of other sizes, made from a sample by cutting and repeating its values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import gcd, prod

import numpy as np

from onnxprune.errors import ModelError, OptionError
from onnxprune.graph import constants
from onnxprune.model import Model
from onnxprune.runtime import Array, Feeds, Session, first_line
from onnxprune.signature import Input, Kind, Signature, read_signature, sizes_of

_SHAPE = re.compile(r"(?P<name>.+)=(?P<sizes>\d+(x\d+)*)")
_PRIMES = [p for p in range(2, 10_000) if all(p % q for q in range(2, int(p**0.5) + 1))]
# What sizes of a kind are drawn from: primes from `least` on, times the first scale that the graph takes. Images and
# sounds start where five halvings leave more than one element.
_LEAST: Mapping[Kind, int] = {"channel": 2, "image": 67, "past": 5, "sequence": 7, "sound": 521}
_SCALES = (1, 8, 16, 32, 64, 128)
_LEAST_SCALED = 3
# A batch is co-prime to the weights' sizes only where that is cheap.
_BATCHES = (2, 3)
_LARGEST_BATCH = 7
_LARGE_ELEMENTS = 20_000
_MOST_APART = 8
# Roles whose rows may be told apart by shifting them; a shifted mask or position would mean something else.
_SHIFTED = {"byte", "image", "real", "token"}


def parse_shapes(text: str | Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Sizes by input name, from `NAME=1x128`; several stand in a list or behind commas.

    Raises:
        OptionError: not of that form, a size of zero, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in (text,) if isinstance(text, str) else text:
        for item in part.split(","):
            match = _SHAPE.fullmatch(item.strip())
            if match is None:
                raise OptionError(f"--shape: must read NAME=1x128, got {item.strip()!r}.")
            sizes = tuple(int(size) for size in match["sizes"].split("x"))
            if 0 in sizes or max(sizes) >= 2**31:
                raise OptionError(f"--shape: sizes must be 1 … 2147483647, got {item.strip()!r}.")
            if match["name"] in shapes:
                raise OptionError(f"--shape: {match['name']!r} is given twice. Give it once.")
            shapes[match["name"]] = sizes
    return shapes


def shaped(model: Model, session: Session, shapes: Mapping[str, tuple[int, ...]], like: Feeds) -> Feeds:
    """The sample `like`, cut or repeated to the sizes that are asked for.

    Axes that share a symbol follow; other axes of the same kind (batch, sequence, …) follow where the graph takes that,
    and keep the sample's size where it does not.

    Raises:
        ModelError: the runtime refuses these sizes.
        OptionError: `shapes` does not fit the signature.
    """
    signature = read_signature(model, session)
    bound = signature.bound(shapes)
    own = _sizes(signature, like)
    by_kind = {signature.kinds[symbol]: size for symbol, size in bound.items()}
    followed = {symbol: by_kind.get(kind, own.get(symbol, 1)) for symbol, kind in signature.kinds.items()}
    refused: ModelError | None = None
    for sizes in (followed | bound, own | bound):
        feeds = _resized(signature, like, sizes, shapes)
        try:
            session.run(feeds)
        except ModelError as error:
            refused = refused or error
        else:
            return feeds
    given = ",".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())
    raise ModelError(
        f"{session.name}: does not run with --shape {given} ({reason(refused)}). Choose sizes that it takes."
    ) from refused


def reason(refused: ModelError | None) -> str:
    """What the runtime said when it refused a feed."""
    cause = refused.__cause__ if refused is not None else None
    return first_line(cause) if isinstance(cause, Exception) else str(refused)


def probe_feeds(model: Model, session: Session, like: Feeds) -> tuple[Feeds, ...]:
    """Two feeds as `synthetic.probes` promises them."""
    signature = read_signature(model, session)
    own = _sizes(signature, like)
    refused: ModelError | None = None
    for pair in _pairs(model, signature, own):
        feeds = tuple(_resized(signature, like, sizes, {}, turn=turn) for turn, sizes in enumerate(pair))
        try:
            for one in feeds:
                session.run(one)
        except ModelError as error:
            refused = error
        else:
            return feeds
    raise refused or ModelError(f"{session.name}: it has no inputs to vary.")


def _pairs(model: Model, signature: Signature, own: Mapping[str, int]) -> Iterator[tuple[dict[str, int], ...]]:
    """Pairs of sizes to try, the most telling first; the last is the sample's own size twice."""
    batches, others = signature.of_kind("batch"), [s for s, kind in signature.kinds.items() if kind != "batch"]
    primes = _primes(model, signature, own)
    apart, tied = [[symbol] for symbol in others], _by_kind(signature, others)
    # So many axes cannot all be independent: each input of a cache has one.
    ways = (tied,) if apart == tied or len(apart) > _MOST_APART else (apart, tied)
    batch_too = (True, False) if batches else (False,)
    long = not {"image", "sound"}.isdisjoint(signature.kinds.values())
    steps = [(1, True)] * long + [(scale, False) for scale in _SCALES]
    for (scale, spread), varied in product(steps if others else (), batch_too):
        for groups in ways:
            yield _pair(signature, own, primes, scale, groups, varied=varied, spread=spread)
    if "past" in signature.kinds.values():
        empty = dict.fromkeys(signature.of_kind("past"), 0)
        rest = _by_kind(signature, [symbol for symbol in others if symbol not in empty])
        yield tuple(sizes | empty for sizes in _pair(signature, own, primes, 1, rest, varied=True))
    for varied in batch_too:
        yield _pair(signature, own, primes, 1, (), varied=varied)


def _by_kind(signature: Signature, symbols: Sequence[str]) -> list[list[str]]:
    kinds = dict.fromkeys(signature.kinds[symbol] for symbol in symbols)
    return [[symbol for symbol in symbols if signature.kinds[symbol] == kind] for kind in kinds]


def _pair(
    signature: Signature,
    own: Mapping[str, int],
    primes: Sequence[int],
    scale: int,
    groups: Sequence[Sequence[str]],
    *,
    varied: bool,
    spread: bool = False,
) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes of both probes: every group of symbols, and the batch where it is `varied`, draws primes of its own."""
    pair = (dict(own), dict(own))
    # Multiples share factors with the weights anyway: small ones then.
    free = list(primes[2:]) if scale == 1 else sorted(primes[2:])
    least = {kind: start if scale == 1 else _LEAST_SCALED for kind, start in _LEAST.items()}
    if spread:
        least["sound"] = max(least["sound"], *(own[symbol] // 8 for symbol in signature.of_kind("sound")), 0)
    for turn, sizes in enumerate(pair):
        if varied:
            sizes.update(dict.fromkeys(signature.of_kind("batch"), primes[turn]))
        for symbols in groups:
            kind = signature.kinds[symbols[0]]
            prime = next((prime for prime in free if prime >= least[kind]), free[-1])
            free.remove(prime)
            sizes.update(dict.fromkeys(symbols, scale * prime))
            if spread and kind in {"image", "sound"}:
                # Apart enough that they still differ when strides have divided both.
                least[kind] = prime * 3 // 2 if len(groups) < 3 else prime * 6 // 5
    return pair


def _primes(model: Model, signature: Signature, own: Mapping[str, int]) -> list[int]:
    """Two small primes for the batches of both probes, then others; those that divide no weight's size come first."""
    dims = {size for weight in constants(model.graph) if len(weight.shape) > 1 for size in weight.shape if size > 1}
    shared = [p for p in _PRIMES if p < 100 and any(gcd(p, size) > 1 for size in dims)]
    apart = [p for p in _PRIMES if p not in shared]
    small = tuple(p for p in apart if p <= _LARGEST_BATCH)
    elements = max((prod(one.shape(own)) for one in signature.inputs), default=1)
    batches = small[:2] if len(small) > 1 and elements <= _LARGE_ELEMENTS else _BATCHES
    return [*batches, *(p for p in apart + shared if p not in batches)]


def _sizes(signature: Signature, like: Feeds) -> dict[str, int]:
    found = sizes_of(signature, {name: array.shape for name, array in like.items()})
    return {symbol: found.get(symbol, 1) for symbol in signature.kinds}


def _resized(
    signature: Signature,
    like: Feeds,
    sizes: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    turn: int = 0,
) -> dict[str, Array]:
    """Each array cut or repeated along its axes; `turn` and the rows of a batch shift values along the last axis."""
    feeds: dict[str, Array] = {}
    for one in signature.inputs:
        array = np.asarray(like[one.name])
        if array.ndim == len(one.axes) and array.ndim:
            array = _repeated(array, shapes.get(one.name, one.shape(sizes)))
            array = _shifted(one, array, turn)
        feeds[one.name] = array
    longest = max((array.shape[-1] for array in feeds.values() if array.ndim > 1), default=1)
    for one in signature.inputs:
        if one.role == "length":
            feeds[one.name] = np.minimum(feeds[one.name], longest).astype(one.port.dtype)
    return feeds


def _repeated(array: Array, shape: Sequence[int]) -> Array:
    for axis, size in enumerate(shape):
        old = array.shape[axis]
        if old == 0 and size:
            return np.zeros(shape, array.dtype)
        if old != size:
            array = np.take(array, np.arange(size) % max(old, 1), axis=axis)
    return array


def _shifted(one: Input, array: Array, turn: int) -> Array:
    if one.role not in _SHIFTED or array.ndim < 2:
        return array
    return np.stack([np.roll(row, turn + at, axis=-1) for at, row in enumerate(array)]) if len(array) else array
