"""What a check finds: which rule, where, what is wrong, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

# From the worst to the mildest; SARIF has the same three words.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Spot:
    """One place that a rule objects to.

    Attributes:
        where: a node, tensor, input or the model itself, as the reader can find it.
        what: what is wrong there, with its figures.
        severity: where it differs from the rule's own.
    """

    where: str
    what: str
    severity: Severity | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule's objection to one place of one model.

    Attributes:
        model: the file, or the factory of a torch module, as the user named it.
        rule: id of the rule.
        do: what to do about it.
    """

    model: str
    rule: str
    severity: Severity
    where: str
    what: str
    do: str

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "model": self.model,
            "rule": self.rule,
            "severity": self.severity,
            "where": self.where,
            "what": self.what,
            "do": self.do,
        }
