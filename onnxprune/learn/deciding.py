"""When gates are decided, and how many units they leave: options that methods with gates share. No torch."""

from __future__ import annotations

from onnxprune.errors import OptionError


def check_gates(name: str, rate: float, decide: float) -> None:
    """Reject rates and shares that no training could use."""
    if not 0 < rate < float("inf"):
        raise OptionError(f"{name}: gate_lr must be above 0, got {rate}.")
    if not 0 < decide < 1:
        raise OptionError(f"{name}: decide must be a share in (0, 1), got {decide}.")


def check_keep(name: str, keep: float) -> None:
    """Reject what is neither a share nor a count."""
    if not (keep >= 0 if isinstance(keep, int) else 0 <= keep < 1):
        raise OptionError(f"{name}: keep must be a share in [0, 1) or a count, got {keep}.")


def count_of(name: str, keep: float, whole: int) -> int:
    """How many of all units are to stay; 0 where nothing was asked.

    Raises:
        OptionError: more than there are.
    """
    if not keep:
        return 0
    count = keep if isinstance(keep, int) else max(1, round(keep * whole))
    if count > whole:
        raise OptionError(f"{name}: keep must be at most the model's {whole} heads, got {keep}.")
    return count


def step_of(share: float, steps: int) -> int:
    """The step at which gates are decided: the last at the latest."""
    return min(round(share * steps), steps - 1)
