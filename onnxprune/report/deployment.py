"""Other forms of a result as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxprune.deployment import Form
from onnxprune.report.terminal import megabytes


def print_forms(forms: Sequence[Form], console: Console) -> None:
    """One line a file: its size, its shapes, how far its outputs are from the model's."""
    for form in forms:
        parts = [megabytes(form.size_bytes)]
        if form.shapes is not None:
            parts.append(", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in form.shapes.items()))
        parts.append(f"largest difference {form.deviation:.1e} of the largest output")
        if form.operators is not None:
            parts.append(f"operators in {form.operators}")
        console.print(f"{form.path}: {'; '.join(parts)}", soft_wrap=True, markup=False)
