"""Which input tells padded tokens, and which rows of a tensor it tells of."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from onnxprune.errors import OptionError
from onnxprune.runtime import Array, Port

# Names that exporters give to masks that are 1 where there is a token. A `key_padding_mask` is 1 where there is none.
_NAME = re.compile(r"(^|.*[._/])(attention|attn|input)_?mask(_?1)?", re.IGNORECASE)


def find_mask(ports: Sequence[Port]) -> str | None:
    """The input [batch, sequence] that is 0 at padded tokens; None where no name says so, or several do."""
    fitting = [port.name for port in ports if len(port.shape) == 2 and port.dtype is not None]
    named = [name for name in fitting if _NAME.fullmatch(name)]
    if "attention_mask" in named:
        return "attention_mask"
    return named[0] if len(named) == 1 else None


def mask_input(ports: Sequence[Port], asked: str | None) -> str | None:
    """The input that tells padded tokens: `asked`, the one that its name tells where nothing is asked, '' for none.

    Raises:
        OptionError: the model has no input of that name.
    """
    if asked is None:
        return find_mask(ports)
    names = sorted(port.name for port in ports)
    if asked and asked not in names:
        raise OptionError(f"--mask: the model has no input {asked!r}. Its inputs: {', '.join(names)}.")
    return asked or None


def kept_rows(shape: tuple[int, ...], mask: Array) -> Array | None:
    """Which rows of a tensor are of tokens that count.

    Args:
        shape: [..., k] of the tensor.
        mask: [batch, sequence], 0 at padded tokens.

    Returns:
        bool `shape[:-1]`; None where the tensor has no axis of tokens, so that all rows count.
    """
    if mask.ndim != 2:
        return None
    batch, sequence = mask.shape
    kept: Array = mask != 0
    lead = shape[:-1]
    if lead == (batch * sequence,):
        return kept.reshape(lead)
    if lead == (sequence, batch) != (batch, sequence):
        return kept.T
    if len(lead) == 2 and lead[1] == sequence and lead[0] % batch == 0:
        # [batch, sequence, k], or [batch * heads, sequence, k]
        return np.repeat(kept, lead[0] // batch, axis=0)
    if len(lead) == 3 and lead[0] == batch and sequence in lead[1:]:
        # [batch, heads, sequence, k], as attention has it, or [batch, sequence, heads, k] before
        return np.broadcast_to(kept[:, None, :] if lead[2] == sequence else kept[:, :, None], lead)
    return None
