"""What whole models lose, remembered, counted, and kept within a budget."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from onnxprune.errors import Declined, ModelError
from onnxprune.loss import Loss
from onnxprune.model import Model
from onnxprune.search.levels import AS_IS, Choice, Level, choice_to_json
from onnxprune.search.memory import Memory


@dataclass(frozen=True)
class Budget:
    """What a search may spend; unbounded where a limit is None.

    Attributes:
        seconds: after which nothing new is begun.
        evaluations: whole models that may be judged.
    """

    seconds: float | None = None
    evaluations: int | None = None


@dataclass(eq=False)
class Judge:
    """Losses of whole models beyond the original's.

    Attributes:
        memory: of this model with these samples and options.
        evaluations: models that were built and run; what was remembered costs none.
    """

    build: Callable[[Choice], Model]
    loss: Loss
    memory: Memory
    budget: Budget = Budget()
    evaluations: int = 0
    _started: float = field(default_factory=time.monotonic)

    def begin(self, budget: Budget) -> None:
        """Start a search of its own budget; what is remembered stays."""
        self.budget = budget
        self.evaluations = 0
        self._started = time.monotonic()

    def lost(self, choice: Choice) -> float:
        """The loss of the model with a choice, less that of the model without; infinite where it does not run."""
        return self._of(choice) - self._of({})

    def spent(self) -> bool:
        """Whether the budget is used up."""
        seconds, evaluations = self.budget.seconds, self.budget.evaluations
        late = seconds is not None and time.monotonic() - self._started > seconds
        return late or (evaluations is not None and self.evaluations >= evaluations)

    def _of(self, choice: Choice) -> float:
        kept = {name: level for name, level in choice.items() if level != AS_IS}
        key = f"loss/{_digest(kept)}"
        held = self.memory.load(key)
        if held is None:
            self.evaluations += 1
            held = self._measured(kept)
            self.memory.save(key, held)
        return math.inf if held == "infinite" else float(held)

    def _measured(self, choice: Choice) -> float | str:
        try:
            value = self.loss(self.build(choice))
        except (Declined, ModelError):
            return "infinite"
        return value if math.isfinite(value) else "infinite"


def _digest(choice: dict[str, Level]) -> str:
    return hashlib.sha256(repr(sorted(choice_to_json(choice).items())).encode()).hexdigest()
