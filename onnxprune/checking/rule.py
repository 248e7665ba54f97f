"""A rule: one small function, with its id, severity and advice declared at its head."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Severity, Spot

# What must have worked before a rule can look: bytes, parsed messages, a loaded graph, a session, a run. Rules of torch
# modules look at the module, or at what came of one exporter.
Stage = Literal["module", "export", "bytes", "file", "graph", "session", "run"]
Find = Callable[[Case], Iterable[Spot]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of objection.

    Attributes:
        id: what reports, `--ignore` and SARIF name it by.
        severity: of its findings, unless a finding says otherwise.
        needs: what must have worked before it can look.
        summary: one sentence: what it objects to.
        do: what to do about it.
        find: the places it objects to.
    """

    id: str
    severity: Severity
    needs: Stage
    summary: str
    do: str
    find: Find

    def to_json(self) -> dict[str, str]:
        """The keys are stable."""
        return {"rule": self.id, "severity": self.severity, "summary": self.summary, "do": self.do}


def rule(name: str, severity: Severity, *, needs: Stage, do: str) -> Callable[[Find], Rule]:
    """Declare the function below as a rule; the first line of its docstring is the rule's summary."""

    def declared(find: Find) -> Rule:
        summary = (find.__doc__ or "").strip().splitlines()[0]
        return Rule(id=name, severity=severity, needs=needs, summary=summary, do=do, find=find)

    return declared
