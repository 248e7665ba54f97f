"""Results for machines: strict JSON, numbers that are not finite written as null."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(document: Any) -> str:
    """Indented JSON text; NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
