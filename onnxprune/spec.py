"""A pass and its text form, `remove-heads:keep=8,score=obs`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxprune.errors import OptionError


def parse(text: str, passes: Mapping[str, type[Any]]) -> Any:
    """The pass that a spec names, with its options set.

    Raises:
        OptionError: no such pass or option, or a value that the option cannot hold.
    """
    name, _, rest = text.partition(":")
    if name not in passes:
        raise OptionError(f"No pass named {name!r}. Known: {', '.join(sorted(passes))}.")
    kind = passes[name]
    return kind(**values_of(name, filter(None, rest.split(",")), (kind,)))


def values_of(name: str, items: Iterable[str], kinds: Sequence[type[Any]]) -> dict[str, Any]:
    """Values of options given as `option=value`, by option; the options are the fields of dataclasses.

    Raises:
        OptionError: no such option, one that is given twice, or a value that the option cannot hold.
    """
    options: dict[str, Any] = {}
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        options |= {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"{name}: options read name=value, got {item!r}.")
        if key not in options:
            known = ", ".join(sorted(options)) or "none"
            raise OptionError(f"{name}: no option named {key!r}. Known: {known}.")
        if key in values:
            raise OptionError(f"{name}: option {key!r} is given twice. Give it once.")
        values[key] = _value(f"{name}: {key}", value, options[key])
    return values


def format(instance: Any) -> str:  # noqa: A001 - the inverse of parse, read as spec.format
    """The spec of a pass: its name and the options that differ from their defaults, in declared order."""
    changed = [
        f"{field.name}={option_text(getattr(instance, field.name))}"
        for field in dataclasses.fields(instance)
        if getattr(instance, field.name) != field.default
    ]
    return f"{instance.name}:{','.join(changed)}" if changed else str(instance.name)


def by_site(where: str, items: Sequence[str], what: str, least: int) -> dict[str, int]:
    """The numbers of an option whose items read `SITE/NUMBER`.

    Args:
        where: the option, as messages name it.
        items: as typed.
        what: the number is, in capitals.
        least: number that may stand there.

    Raises:
        OptionError: an item reads otherwise, or a site comes twice.
    """
    held: dict[str, int] = {}
    for item in items:
        site, _, digits = item.partition("/")
        sound = site and digits.isascii() and digits.isdigit() and int(digits) >= least
        if not sound or site in held:
            raise OptionError(f"{where} read SITE/{what}, {what} from {least} once a site, got {item!r}.")
        held[site] = int(digits)
    return held


def option_text(value: Any) -> str:
    """A value as a spec writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "+".join(str(item) for item in value)
    return "none" if value is None else str(value)


def _value(where: str, text: str, hint: Any) -> Any:
    """Text read as the option's annotated type: the first member of a union that takes it."""
    errors = []
    for kind in _members(hint):
        try:
            return _one(text, kind)
        except ValueError as error:
            errors.append(str(error))
    raise OptionError(f"{where} must be {' or '.join(errors)}, got {text!r}.")


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        # An integer is a count and a float a share: `8` must not become 8.0, nor `1.0` the count 1.
        return tuple(sorted(typing.get_args(hint), key=lambda kind: (kind is str, kind is float)))
    return (hint,)


def _one(text: str, kind: Any) -> Any:
    if kind is type(None):
        if text == "none":
            return None
        raise ValueError("none")
    if kind is bool:
        if text in {"yes", "true", "no", "false"}:
            return text in {"yes", "true"}
        raise ValueError("yes or no")
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        for choice in choices:
            if text == str(choice):
                return choice
        raise ValueError("one of " + ", ".join(str(choice) for choice in choices))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_one(part, item) for part in text.split("+"))
    names = {int: "a whole number", float: "a number", str: "text"}
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(names.get(kind, str(kind))) from error
