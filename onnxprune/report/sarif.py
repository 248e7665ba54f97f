"""Findings in SARIF 2.1.0, which code hosts show beside the change that brought them.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0, 2020.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from onnxprune.checking import Checked, Finding, Rule
from onnxprune.errors import OutputError
from onnxprune.files import atomic

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def write_sarif(result: Checked, rules: Sequence[Rule], path: Path) -> None:
    """Write the findings of a check as one SARIF file.

    Raises:
        OutputError: the file cannot be written.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder. Make it or choose another place with --sarif.")
    with atomic(path) as file:
        file.write(json.dumps(sarif(result, rules), indent=1).encode())


def sarif(result: Checked, rules: Sequence[Rule]) -> dict[str, Any]:
    """The findings as a SARIF log of one run."""
    number = {rule.id: at for at, rule in enumerate(rules)}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "onnxprune",
                        "version": version("onnxprune"),
                        "rules": [_rule(rule) for rule in rules],
                    }
                },
                "invocations": [{"executionSuccessful": True, "exitCode": 0 if result.passed else 1}],
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, number[finding.rule]) for finding in result.findings],
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.summary},
        "help": {"text": rule.do},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Finding, number: int) -> dict[str, Any]:
    place = f"{finding.rule}\0{finding.where}"
    return {
        "ruleId": finding.rule,
        "ruleIndex": number,
        "level": finding.severity,
        "message": {"text": f"{finding.where}: {finding.what}. {finding.do}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(finding.model)},
                    # A model has no lines, but code hosts show nothing without one.
                    "region": {"startLine": 1},
                },
                "logicalLocations": [{"fullyQualifiedName": finding.where, "kind": "object"}],
            }
        ],
        # The same finding in a later version of the model is the same to whoever follows it up.
        "partialFingerprints": {"ruleAndPlace/v1": hashlib.sha256(place.encode()).hexdigest()},
    }


def _uri(model: str) -> str:
    """Relative to the folder of the run where the model lies in it."""
    path = Path(model).absolute()
    if path.is_relative_to(Path.cwd()):
        return quote(path.relative_to(Path.cwd()).as_posix())
    return path.as_uri()
