"""One model file, or several, against every rule."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxprune.checking.budgets import Budgets
from onnxprune.checking.case import Case
from onnxprune.checking.finding import SEVERITIES, Finding, Severity
from onnxprune.checking.rule import Rule
from onnxprune.checking.rules import RULES
from onnxprune.errors import ModelError, OptionError

FailOn = Literal["error", "warning", "note", "never"]


@dataclass(frozen=True, kw_only=True)
class CheckedModel:
    """One model's part of the answer.

    Attributes:
        figures: what budgets measured, by name.
        not_checked: rules that could not look, with the reason.
        seconds: that all rules took.
    """

    model: str
    findings: tuple[Finding, ...]
    figures: Mapping[str, Any]
    not_checked: Mapping[str, str]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The answer of `onnxprune check`.

    Attributes:
        fail_on: the mildest severity that fails.
    """

    models: tuple[CheckedModel, ...]
    fail_on: FailOn

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all models."""
        return tuple(finding for model in self.models for finding in model.findings)

    @property
    def passed(self) -> bool:
        """Whether no finding is as bad as `fail_on`."""
        if self.fail_on == "never":
            return True
        failing = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        return all(finding.severity not in failing for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """Findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "passed": self.passed,
            "fail_on": self.fail_on,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "models": [
                {
                    "model": one.model,
                    "figures": dict(one.figures),
                    "not_checked": dict(one.not_checked),
                    "seconds": one.seconds,
                }
                for one in self.models
            ],
            "findings": [finding.to_json() for finding in self.findings],
        }


def check(
    models: Sequence[Path | str] | Path | str,
    *,
    budgets: Budgets | None = None,
    ignore: Sequence[str] = (),
    fail_on: FailOn = "warning",
) -> Checked:
    """Look at model files before they ship.

    Args:
        models: one or more .onnx files.
        budgets: limits, and the inputs they are measured on; none by default.
        ignore: ids of rules to leave out.
        fail_on: the mildest severity that fails.

    Raises:
        ModelError: a file does not exist.
        OptionError: no such rule.
        DataError: the samples do not fit a model.
    """
    known = {rule.id: rule for rule in RULES}
    for name in ignore:
        if name not in known:
            raise OptionError(f"No rule named {name!r}. Known: {', '.join(sorted(known))}.")
    paths = [Path(one) for one in ([models] if isinstance(models, Path | str) else models)]
    for path in [*paths, *filter(None, [budgets.reference if budgets else None])]:
        if not path.is_file():
            raise ModelError(f"{path}: no such file. Name an existing .onnx file.")
    chosen = [rule for name, rule in known.items() if name not in ignore]
    return Checked(models=tuple(_checked(path, chosen, budgets or Budgets()) for path in paths), fail_on=fail_on)


def _checked(path: Path, rules: Sequence[Rule], budgets: Budgets) -> CheckedModel:
    start = time.perf_counter()
    case = Case(path, budgets)
    findings: list[Finding] = []
    skipped: dict[str, str] = {}
    for rule in rules:
        reason = None if rule.needs == "bytes" else case.failure(rule.needs)
        if reason is not None:
            skipped[rule.id] = reason
            continue
        try:
            findings += _findings(rule, case)
        except ModelError as error:
            # What a rule alone needs of the model, such as a run at other sizes, is not to be had.
            skipped[rule.id] = str(error)
    return CheckedModel(
        model=str(path),
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        figures=case.figures,
        not_checked=skipped,
        seconds=time.perf_counter() - start,
    )


def _findings(rule: Rule, case: Case) -> list[Finding]:
    return [
        Finding(
            model=str(case.path),
            rule=rule.id,
            severity=spot.severity or rule.severity,
            where=spot.where,
            what=spot.what,
            do=rule.do,
        )
        for spot in rule.find(case)
    ]
