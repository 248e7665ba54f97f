"""Checks before a model ships: one rule, one small function; budgets measured, findings with what to do about them."""

from onnxprune.checking.budgets import Budgets, parse_latencies, parse_metrics, parse_providers
from onnxprune.checking.checked import Checked, CheckedModel, FailOn, check
from onnxprune.checking.finding import SEVERITIES, Finding, Severity
from onnxprune.checking.rules import RULES, Rule

__all__ = [
    "RULES",
    "SEVERITIES",
    "Budgets",
    "Checked",
    "CheckedModel",
    "FailOn",
    "Finding",
    "Rule",
    "Severity",
    "check",
    "parse_latencies",
    "parse_metrics",
    "parse_providers",
]
