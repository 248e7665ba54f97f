"""Inputs made up from a model's signature, and feeds of other sizes made from given ones.

What is made up proves that a model runs and that two models agree; it is no evidence of accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product

import numpy as np

from onnxprune.data import Samples
from onnxprune.errors import ModelError
from onnxprune.model import Model
from onnxprune.probing import parse_shapes, probe_feeds, reason, shaped
from onnxprune.runtime import Array, Feeds, Session
from onnxprune.signature import Input, Kind, Signature, read_signature

__all__ = ["parse_shapes", "probes", "shaped", "synthesise"]

# Sizes to try for each kind of dynamic axis, until the runtime takes them.
_LADDERS: Mapping[Kind, tuple[int, ...]] = {
    "batch": (1,),
    "channel": (3, 1, 4),
    "image": (224, 320, 64, 32, 256, 512, 640, 128, 96),
    # An empty cache is the true start of a stream.
    "past": (0, 16, 1),
    # Tables of positions end somewhere: 77, 64, 32, …
    "sequence": (128, 64, 32, 16, 8, 4, 2, 1, 256, 512),
    "sound": (16000, 512, 576, 1024, 4096, 256, 128, 64, 32, 16, 8, 4),
}
# What is fed in chunks expects short ones.
_CHUNKS = (512, 576, 256, 1024, 160, 320, 480, 1536, 128, 64, 32, 16, 8)
_RATES = (16000, 8000, 44100)
_NUMBERS = (1, 0, 2, 16)
# A model that takes none of so many is not going to take the next.
_MOST_ATTEMPTS = 64


def synthesise(
    model: Model,
    session: Session,
    *,
    count: int = 8,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Samples:
    """Samples made up from the model's signature: the same for the same seed.

    Token ids lie inside the tables that they index, masks are ones with a padded tail (but for the first sample),
    states are zeros, images uniform in [0, 1), other floats standard normal.

    Args:
        model: its graph is read for what it does with its inputs.
        session: of the same model; runs what is made up, so that what does not run is not handed out.
        count: how many samples.
        seed: of every random number.
        shapes: sizes by input name; those of other inputs follow where they share symbols.

    Raises:
        ModelError: nothing that was made up runs, or an input is of a type that arrays do not have.
        OptionError: `shapes` does not fit the signature.
    """
    signature = read_signature(model, session)
    shapes = shapes or {}
    refused: ModelError | None = None
    for sizes, rate, number in islice(_attempts(signature, shapes), _MOST_ATTEMPTS):
        made = [_feeds(signature, sizes | {"": index}, shapes, (rate, number), seed) for index in range(count)]
        try:
            session.run(made[0])
        except ModelError as error:
            refused = refused or error
        else:
            return Samples(feeds=tuple(made), source="synthetic inputs", synthetic=True)
    raise ModelError(
        f"{session.name}: no made-up inputs run ({reason(refused)}). Give samples with --data, or sizes with --shape."
    ) from refused


def probes(model: Model, session: Session, like: Feeds | None = None, *, seed: int = 0) -> tuple[Feeds, ...]:
    """Two feeds whose dynamic axes differ in size, co-prime to each other and to the weights' sizes where that runs.

    Where a graph refuses such sizes they are multiples of its strides; where it has no dynamic axis, or takes no other
    size, the feeds differ in values only.

    Args:
        model: its weights' sizes are avoided.
        session: of the same model; tries the sizes.
        like: a sample whose values are cut or repeated to the new sizes; a made-up one without it.
        seed: of the made-up sample.

    Raises:
        ModelError: nothing runs.
    """
    if like is None:
        like = synthesise(model, session, count=1, seed=seed).feeds[0]
    return probe_feeds(model, session, like)


def _attempts(signature: Signature, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[dict[str, int], int, int]]:
    """Sizes of all symbols, a rate and a number to try, the likeliest first."""
    bound = signature.bound(shapes)
    roles = {one.role for one in signature.inputs}
    kinds = sorted(set(signature.kinds.values()))
    ladders = []
    for kind in kinds:
        ladder = _CHUNKS if kind == "sound" and roles & {"rate", "state"} else _LADDERS[kind]
        # What is stated for one axis is likeliest for others of its kind.
        stated = dict.fromkeys(bound[symbol] for symbol in signature.of_kind(kind) if symbol in bound)
        open_axes = [symbol for symbol in signature.of_kind(kind) if symbol not in bound]
        ladders.append(tuple(dict.fromkeys([*stated, *ladder])) if open_axes else (0,))
    rates = _RATES if "rate" in roles else _RATES[:1]
    numbers = _NUMBERS if "number" in roles else _NUMBERS[:1]
    for *chosen, rate, number in product(*ladders, rates, numbers):
        by_kind = dict(zip(kinds, chosen, strict=True))
        yield {symbol: by_kind[kind] for symbol, kind in signature.kinds.items()} | bound, rate, number


def _feeds(
    signature: Signature,
    sizes: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    scalars: tuple[int, int],
    seed: int,
) -> dict[str, Array]:
    """One sample; its number is the size of the symbol ''."""
    index = sizes[""]
    generator = np.random.default_rng([seed, index])
    share = 1.0 if index == 0 else generator.uniform(0.5, 1.0)
    made = {one.name: tuple(shapes.get(one.name, one.shape(sizes))) for one in signature.inputs}
    longest = max((made[one.name][-1] for one in signature.inputs if _is_long(one)), default=1)
    return {one.name: _values(one, made[one.name], generator, share, longest, scalars) for one in signature.inputs}


def _is_long(one: Input) -> bool:
    return len(one.axes) > 1 and one.role in {"byte", "flag", "mask", "position", "real", "token"}


def _values(  # noqa: C901 - one case for each role
    one: Input,
    shape: tuple[int, ...],
    generator: np.random.Generator,
    share: float,
    longest: int,
    scalars: Sequence[int],
) -> Array:
    dtype = one.port.dtype
    low, high = one.bounds or (0, 256)
    made: Array
    match one.role:
        case "flag":
            made = np.ones(shape)
        case "text":
            made = np.full(shape, "text", dtype=object)
        case "mask":
            made = np.broadcast_to(np.arange(shape[-1]) < max(1, round(share * shape[-1])), shape)
        case "token":
            made = generator.integers(low, max(high, low + 1), shape)
        case "position":
            made = np.broadcast_to(low + np.arange(shape[-1]) % max(high - low, 1), shape)
        case "byte":
            made = generator.integers(0, 128 if dtype == np.int8 else 256, shape)
        case "length":
            made = np.full(shape, longest)
        case "rate":
            made = np.full(shape, scalars[0])
        case "number":
            made = np.full(shape, scalars[1])
        case "state":
            made = np.zeros(shape)
        case "image":
            made = generator.random(shape)
        case "real":
            made = generator.standard_normal(shape)
    return made.astype(dtype)
