"""One model file, or several, against every rule."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxprune.checking.budgets import Budgets
from onnxprune.checking.case import Case
from onnxprune.checking.finding import SEVERITIES, Finding, Severity, Spot
from onnxprune.checking.rule import Rule
from onnxprune.checking.rules import RULES
from onnxprune.errors import ModelError, OnnxPruneError, OptionError, TargetError
from onnxprune.exporting import Export, fold, is_factory, load_module, preview
from onnxprune.measurement import parse_targets

FailOn = Literal["error", "warning", "note", "never"]
_MODULE = ("module", "export")
# What the preview of an export answers in full: zeros that the passes will take out are no fault of a module.
_ANSWERED = ("dead-units", "dense-zeros")


@dataclass(frozen=True, kw_only=True)
class CheckedModel:
    """One model's part of the answer.

    Attributes:
        figures: what budgets measured, by name.
        not_checked: rules that could not look, with the reason.
        seconds: that all rules took.
        export: of a torch module's export, what the passes will find in it and what is left after.
    """

    model: str
    findings: tuple[Finding, ...]
    figures: Mapping[str, Any]
    not_checked: Mapping[str, str]
    seconds: float
    export: Export | None = None


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
                    "export": None if one.export is None else one.export.to_json(),
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
    """Look at models before they ship, or at torch modules before they are exported.

    Args:
        models: one or more .onnx files, or `package.module:factory` of torch modules.
        budgets: limits, and the inputs they are measured on; none by default.
        ignore: ids of rules to leave out.
        fail_on: the mildest severity that fails.

    Raises:
        ModelError: a file does not exist.
        OptionError: no such rule.
        DataError: the samples do not fit a model, or a factory gives no module.
        MissingDependencyError: a torch module is to be checked without torch.
    """
    known = {rule.id: rule for rule in RULES}
    for name in ignore:
        if name not in known:
            raise OptionError(f"No rule named {name!r}. Known: {', '.join(sorted(known))}.")
    names = [str(one) for one in ([models] if isinstance(models, Path | str) else models)]
    limits = budgets or Budgets()
    for name in [*names, *([str(limits.reference)] if limits.reference else [])]:
        if not Path(name).is_file() and not (name in names and is_factory(name)):
            raise ModelError(f"{name}: no such file. Name an existing .onnx file.")
    _refuse_targets(limits)
    chosen = [rule for name, rule in known.items() if name not in ignore]
    checked: list[CheckedModel] = []
    for name in names:
        if Path(name).is_file():
            checked.append(_checked(name, Case(Path(name), limits), [r for r in chosen if r.needs not in _MODULE]))
        else:
            checked += _checked_module(name, chosen, limits)
    return Checked(models=tuple(checked), fail_on=fail_on)


def _refuse_targets(budgets: Budgets) -> None:
    """Targets that are not there, and limits in milliseconds where none are measured, are told before anything runs."""
    for place in parse_targets([*budgets.max_latency_ms]) if budgets.max_latency_ms else ():
        if place.latency != "wall":
            raise OptionError(f"--max-latency {place.name}: gives no milliseconds. Name one that does, as cpu:1.")
    if budgets.must_run:
        parse_targets([*budgets.must_run])


def _checked_module(name: str, rules: Sequence[Rule], budgets: Budgets) -> Iterator[CheckedModel]:
    """A torch module, then each of its exports."""
    loaded = load_module(name)
    found = fold(loaded.module, loaded.inputs)
    target = next(iter(budgets.max_latency_ms), "cpu:1")
    module = Case(Path(name), budgets, folded=found.folded, unfolded=found.left)
    yield _checked(name, module, [rule for rule in rules if rule.needs == "module"])
    with preview(loaded.module, loaded.inputs, target=target) as exports:
        for one in exports:
            case = Case(one.path or Path(name), budgets, export=one, exports=exports)
            label = f"{name} ({one.exporter})"
            fitting = [rule for rule in rules if rule.needs != "module" and rule.id not in _ANSWERED]
            yield _checked(label, case, fitting)


def _checked(name: str, case: Case, rules: Sequence[Rule]) -> CheckedModel:
    start = time.perf_counter()
    findings: list[Finding] = []
    skipped: dict[str, str] = {}
    for rule in rules:
        reason = _reason(rule, case)
        if reason is not None:
            skipped[rule.id] = reason
            continue
        try:
            findings += _findings(name, rule, case)
        except (ModelError, TargetError) as error:
            # What a rule alone needs of the model, such as a run at other sizes, is not to be had. A limit that cannot
            # be measured is not kept.
            skipped[rule.id] = str(error)
            if rule.severity == "error":
                findings.append(_finding(name, rule, Spot("model", f"could not be checked: {error}")))
        except OnnxPruneError:
            raise
        except Exception:
            # Rules read nodes as their operators define them. Where not even the runtime can, other rules have said so;
            # of a model that loads it is our own bug.
            refused = case.failure("session")
            if refused is None:
                raise
            skipped[rule.id] = refused
    return CheckedModel(
        model=name,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        figures=case.figures,
        not_checked=skipped,
        seconds=time.perf_counter() - start,
        export=case.export,
    )


def _reason(rule: Rule, case: Case) -> str | None:
    """Why a rule cannot look; None where it can."""
    if rule.needs in _MODULE:
        return None
    if case.export is not None and case.export.path is None:
        return case.export.failure
    return None if rule.needs == "bytes" else case.failure(rule.needs)


def _findings(name: str, rule: Rule, case: Case) -> list[Finding]:
    return [_finding(name, rule, spot) for spot in rule.find(case)]


def _finding(name: str, rule: Rule, spot: Spot) -> Finding:
    return Finding(
        model=name,
        rule=rule.id,
        severity=spot.severity or rule.severity,
        where=spot.where,
        what=spot.what,
        do=rule.do,
    )
