"""Styled text in which names that users chose stand as they are."""

from __future__ import annotations

from rich.markup import escape
from rich.text import Text

SYNTHETIC = "[yellow]Synthetic inputs[/]: no --data was given"


def marked(template: str, *values: object) -> Text:
    """Text from a template in rich's markup; what fills its places is no markup, brackets and colons or not."""
    return Text.from_markup(template.format(*(escape(str(value)) for value in values)), emoji=False)
