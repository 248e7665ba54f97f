"""Every rule, in the order in which a report lists them; nothing registers itself."""

from __future__ import annotations

from onnxprune.checking.rule import Rule
from onnxprune.checking.rules import (
    budgets,
    loading,
    modules,
    naming,
    numerics,
    operators,
    portability,
    providers,
    quantization,
    storage,
    structure,
)

RULES: tuple[Rule, ...] = (
    *modules.RULES,
    *loading.RULES,
    *operators.RULES,
    *naming.RULES,
    *storage.RULES,
    *numerics.RULES,
    *structure.RULES,
    *quantization.RULES,
    *portability.RULES,
    *providers.RULES,
    *budgets.RULES,
)

__all__ = ["RULES", "Rule"]
