"""Specs that nobody would type: refused in one line, or read and written back as the same pass."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from onnxprune import spec
from onnxprune.errors import OptionError
from onnxprune.passes import known

_VALUES = (
    "", "0", "1", "8", "-1", "0.5", "1.0", "1e309", "nan", "inf", "yes", "no", "none", "2:4", "4:2", "0:0", "a+b", "+",
    "obs", "wanda", "joint", "9" * 5000, "1_0", " 1", "0x10", "é", "\n", "heads.0/3", "a/b/c", "=", "==",
)  # fmt: skip


def drawn(chance: random.Random) -> str:
    """A spec of a real pass with values of every kind, some of it damaged."""
    passes = known()
    name = chance.choice(sorted(passes))
    options = [field.name for field in dataclasses.fields(passes[name])] or ["keep"]  # type: ignore[arg-type]
    items = [f"{chance.choice(options)}={chance.choice(_VALUES)}" for _ in range(chance.randint(0, 3))]
    text = f"{name}:{','.join(items)}" if items else name
    if chance.random() < 0.3:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice([":", ",", "=", "\0", "é", "", " "]) + text[at + 1 :]
    return text


def read_or_refused(text: str) -> tuple[Any, str]:
    """The pass, or why it was refused."""
    try:
        return spec.parse(text, known()), ""
    except OptionError as error:
        return None, str(error)


@pytest.mark.parametrize("cases", [1000, pytest.param(20000, marks=pytest.mark.nightly)])
def test_any_text_is_a_pass_or_one_line(cases: int) -> None:
    read = 0
    for case in range(cases):
        text = drawn(random.Random(case))  # noqa: S311 - chance, not secrets
        instance, refusal = read_or_refused(text)
        assert len(refusal.splitlines()) <= 1, f"case {case}: {text!r}: {refusal}"
        if instance is not None:
            assert spec.parse(spec.format(instance), known()) == instance, f"case {case}: {text!r}"
            read += 1
    assert 0 < read < cases
