"""A pass's page: what its docstrings say, as text and as Markdown."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from onnxprune import spec
from onnxprune.errors import OutputError
from onnxprune.files import atomic
from onnxprune.report.marking import marked

_SECTION = re.compile(r"^(Attributes|Raises|Returns|Args|Source|Sources):(.*)$")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a pass.

    Attributes:
        default: as a spec writes it.
        takes: what may be written.
        about: from the docstring of the class that declares it.
    """

    name: str
    default: str
    takes: str
    about: str


@dataclasses.dataclass(frozen=True)
class Manual:
    """A pass in words.

    Attributes:
        summary: one sentence.
        prose: paragraphs.
        sources: papers that it follows.
        facts: what follows from the class itself.
    """

    name: str
    summary: str
    prose: tuple[str, ...]
    options: tuple[Option, ...]
    sources: tuple[str, ...]
    facts: tuple[str, ...]


def manual_of(kind: type[Any]) -> Manual:
    """What the docstrings of a pass, its bases and its module say."""
    paragraphs, _, _ = _read(kind.__doc__ or "")
    about: dict[str, str] = {}
    sources: list[str] = []
    for base in reversed(kind.__mro__):
        if base is not object and not getattr(base, "_is_protocol", False):
            _, attributes, own = _read(base.__dict__.get("__doc__") or "")
            about |= attributes
            sources += own
    for text in (inspect.getdoc(sys.modules[kind.__module__]) or "",):
        sources += _read(text)[2]
    hints = typing.get_type_hints(kind)
    options = tuple(
        Option(field.name, spec.option_text(field.default), _takes(hints[field.name]), about.get(field.name, ""))
        for field in dataclasses.fields(kind)
    )
    return Manual(
        name=kind.name,
        summary=paragraphs[0],
        prose=tuple(paragraphs[1:]),
        options=options,
        sources=tuple(dict.fromkeys(sources)),
        facts=_facts(kind),
    )


def print_manual(manual: Manual, console: Console) -> None:
    """Print a pass's page."""
    console.print(marked("[bold]{}[/]: {}", manual.name, manual.summary), soft_wrap=True)
    for text in (*manual.prose, *manual.facts):
        console.print(text, soft_wrap=True, markup=False)
    for option in manual.options:
        console.print(f"    {option.name}={option.default}", markup=False)
        console.print(f"        {option.takes}. {option.about}".rstrip(), soft_wrap=True, markup=False)
    for source in manual.sources:
        console.print(f"Source: {source}", soft_wrap=True, markup=False)


def markdown(manual: Manual) -> str:
    """A pass's page as Markdown."""
    lines = [f"# {manual.name}", "", manual.summary, ""]
    for text in manual.prose:
        lines += [text, ""]
    given = f"{manual.name}:{manual.options[0].name}=…" if manual.options else manual.name
    lines += ["```", f"onnxprune optimize model.onnx --data samples.npz --pass {given}", "```", ""]
    if manual.options:
        lines += ["| option | default | takes | what it says |", "|---|---|---|---|"]
        lines += [
            f"| `{one.name}` | `{one.default or ' '}` | {_cell(one.takes)} | {_cell(one.about)} |"
            for one in manual.options
        ]
        lines.append("")
    lines += [f"* {fact}" for fact in manual.facts]
    lines += [f"* Source: {source}" for source in manual.sources]
    return "\n".join(lines).rstrip() + "\n"


def write_manuals(passes: Mapping[str, type[Any]], folder: Path) -> tuple[Path, ...]:
    """One Markdown page a pass, and a list of them; the pages' paths.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}. Name another folder.") from error
    manuals = [manual_of(kind) for kind in passes.values()]
    pages = {f"{manual.name}.md": markdown(manual) for manual in manuals}
    rows = [f"| [{one.name}]({one.name}.md) | {_cell(one.summary)} |" for one in manuals]
    head = "Made by `onnxprune passes --markdown docs/passes` from the docstrings; a test holds them current."
    pages["README.md"] = "\n".join(["# Passes", "", head, "", "| pass | what it does |", "|---|---|", *rows, ""])
    for name, text in pages.items():
        with atomic(folder / name) as file:
            file.write(text.encode())
    return tuple(folder / name for name in pages)


def _read(docstring: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Paragraphs before the first section, attributes by name, and sources."""
    paragraphs: list[str] = [""]
    attributes: dict[str, str] = {}
    sources: list[str] = []
    section, name, depth = "", "", 0
    for line in inspect.cleandoc(docstring).splitlines():
        found = _SECTION.match(line)
        if found is not None:
            section = found.group(1)
            if section.startswith("Source"):
                sources.append(found.group(2).strip())
        elif not section:
            if line:
                paragraphs[-1] = f"{paragraphs[-1]} {line.strip()}".strip()
            elif paragraphs[-1]:
                paragraphs.append("")
        elif section == "Attributes" and line:
            indent = len(line) - len(line.lstrip())
            depth = depth or indent
            if indent == depth:
                name, _, text = line.strip().partition(": ")
                attributes[name] = text
            else:
                attributes[name] = f"{attributes[name]} {line.strip()}"
        elif section.startswith("Source") and line:
            sources[-1] = f"{sources[-1]} {line.strip()}".strip()
    return [text for text in paragraphs if text] or [""], attributes, sources


def _takes(hint: Any) -> str:
    """The values of a type, in words."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(str(one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "texts joined by +"
    members = [one for one in typing.get_args(hint) if one is not Ellipsis]
    if members:
        return " or ".join(_takes(one) for one in members)
    return {bool: "yes or no", int: "a whole number", float: "a number", str: "text", type(None): "none"}.get(
        hint, str(getattr(hint, "__name__", hint))
    )


def _facts(kind: type[Any]) -> tuple[str, ...]:
    """What the class itself says of every use of it."""
    facts = []
    if kind.__dict__.get("lossless", getattr(kind, "lossless", False)) is True:
        facts.append("Outputs stay the same, to float rounding.")
    if getattr(kind, "exact", False) is True:
        facts.append("Outputs stay the same, bit for bit.")
    if getattr(kind, "timed", None):
        facts.append("What it does for speed stays only where the clock finds it no slower.")
    return tuple(facts)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
