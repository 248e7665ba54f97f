"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

MODEL = click.argument("model", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
HTML = click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the result as one self-contained page, too."
)
SHAPE = click.option(
    "--shape", multiple=True, metavar="NAME=1x128", help="Sizes of an input for timing; the first sample's by default."
)
MAX_MEMORY = click.option(
    "--max-memory",
    metavar="SIZE",
    help="What may be taken beside the program itself: 2GB, 512MiB.  [default: what the system can spare]",
)
WORKERS = click.option(
    "--workers", type=int, metavar="N", help="Of --scheduler local.  [default: one less than processors]"
)
_TARGET_HELP = "Where to time, see `onnxprune targets`"
TARGET = click.option("--target", default="cpu:1", show_default=True, help=f"{_TARGET_HELP}.")
TARGETS = click.option(
    "--target",
    multiple=True,
    default=("cpu:1",),
    show_default=True,
    help=f"{_TARGET_HELP}; may be given several times.",
)


def floor(text: str | None) -> Any:
    """A floor under fidelity as typed: a share, `off` or nothing.

    Raises:
        OptionError: it is neither.
    """
    from onnxprune.errors import OptionError

    if text is None or text == "off":
        return text
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--fidelity must be a share such as 0.95, or off, got {text!r}.") from None


def factor(text: str | None) -> float | None:
    """A speed-up as typed: `2` or `2x`; None where none was.

    Raises:
        OptionError: it is no factor.
    """
    from onnxprune.search.goal import parse_factor

    return None if text is None else parse_factor("speedup", text)
