"""A page as data, and its one file of HTML: no script, nothing fetched, light and dark, on a phone and in print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from onnxprune.errors import OptionError
from onnxprune.files import atomic

# What a page may weigh; pictures of very large models are left out before it is exceeded.
LIMIT_BYTES = 2_000_000
# What figures and units have not.
_LETTERS = re.compile(r"[^\W\d_]{3}")
# A cell of more characters is a sentence, which may take several lines.
_LONG = 36


@dataclass(frozen=True)
class Picture:
    """An SVG with what it says in words, for those who do not see it."""

    svg: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a head; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def words(self) -> frozenset[int]:
        """Columns that hold words: they read from the left."""
        columns = zip(*self.rows, strict=True)
        return frozenset(at for at, cells in enumerate(columns) if any(map(_is_word, cells)))

    @property
    def long(self) -> frozenset[int]:
        """Columns that hold sentences: they are broken into lines."""
        columns = zip(*self.rows, strict=True)
        return frozenset(at for at, cells in enumerate(columns) if any(len(cell) > _LONG for cell in cells))


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: a sentence or two before what is shown.
        parts: tables and pictures in order.
    """

    title: str
    text: str = ""
    parts: Sequence[Table | Picture] = ()

    def named(self, title: str) -> Section:
        """The same under another heading."""
        return replace(self, title=title)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What one run has to say, the verdict first.

    Attributes:
        title: of the window.
        verdict: one sentence.
        good: whether what was asked was reached; None where nothing was asked.
        warnings: what to know before believing the figures.
        figures: name, before, after, remark.
        sections: the rest.
        command: that repeats it.
    """

    title: str
    verdict: str
    good: bool | None = None
    warnings: Sequence[str] = ()
    figures: Sequence[tuple[str, str, str, str]] = ()
    sections: Sequence[Section] = ()
    command: str = ""


def render(page: Page) -> str:
    """The page as one HTML document of at most `LIMIT_BYTES`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxprune.report.page", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html.j2")
    text = template.render(page=page, is_picture=lambda part: isinstance(part, Picture))
    if len(text.encode()) <= LIMIT_BYTES:
        return text
    slim = [_without_pictures(section) for section in page.sections]
    return template.render(
        page=Page(**{**vars(page), "sections": slim}), is_picture=lambda part: isinstance(part, Picture)
    )


def write_page(page: Page, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    text = render(page)
    with atomic(path) as file:
        file.write(text.encode())


def check_extra() -> None:
    """Refuse to begin what could not be drawn.

    Raises:
        OptionError: jinja2 or matplotlib is missing.
    """
    if any(find_spec(name) is None for name in ("jinja2", "matplotlib")):
        raise OptionError("--html needs jinja2 and matplotlib. Install them with: pip install 'onnxprune[report]'.")


def _is_word(cell: str) -> bool:
    # A name such as `3.project.weight` is one, a figure with its unit is none.
    named = " " not in cell and _LETTERS.search(cell) is not None
    return (cell[:1].isalpha() or named) and cell not in {"nan", "inf"}


def _without_pictures(section: Section) -> Section:
    kept = [part for part in section.parts if not isinstance(part, Picture)]
    note = " (pictures left out: the page would be too large)" if len(kept) < len(section.parts) else ""
    return Section(title=section.title, text=section.text + note, parts=kept)
