"""Sizes as people write them: `20MB`, `512 KiB`, `1.5GiB` or a plain number of bytes."""

from __future__ import annotations

import re

from onnxprune.errors import OptionError

# Read without regard to case: kB, KB and kb are all a thousand bytes.
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)
# No file and no memory is larger; what is, is a slip of the pen.
_LARGEST = 2**60


def parse_size(
    name: str, text: str, *, wanted: str = "a size such as 20MB, 512KiB or 1000000", advice: str = ""
) -> int:
    """Bytes of a size.

    Args:
        name: of the option or variable that it was given for, as the message should call it.
        text: what was given.
        wanted: what the message asks for.
        advice: a sentence that ends the message.

    Raises:
        OptionError: not a size.
    """
    found = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(found[2].lower() or "b") if found is not None else None
    size = float(found[1]) * unit if found is not None and unit is not None else -1.0
    if not 0 <= size <= _LARGEST:
        raise OptionError(f"{name} must be {wanted}, got {text!r}.{advice and ' ' + advice}")
    return int(size)
