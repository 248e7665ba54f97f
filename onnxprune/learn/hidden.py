"""Token distillation: hidden states behind the blocks that both models have, beside the original's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onnxprune.learn import objectives
from onnxprune.learn.call import Tensor
from onnxprune.learn.matching import match_blocks
from onnxprune.learn.procedure import Procedure, Seen
from onnxprune.learn.trainee import Trainee
from onnxprune.runtime import Port, open_session, with_outputs


class TokenDistillation(Procedure):
    """Adds the mean distance of hidden states, token by token, to what is learned.

    Source: Kurtic, Frantar and Alistarh 2023, ZipLM, section 3.3.
    """

    def __init__(self, trainee: Trainee, weight: float, rounds: Sequence[Mapping[str, Any]] = ()) -> None:
        """Match the blocks of the form in training with those of the original.

        Args:
            trainee: with its form.
            weight: of hidden states, which count as much as the rest at 1.
            rounds: what was cut before.
        """
        self._rounds = rounds
        self._trainee = trainee
        self._weight = weight
        self.pairs = match_blocks(trainee.model, trainee.form, list(trainee.probes)) if weight else ()
        self.wanted = tuple(pair.student for pair in self.pairs)
        self._teacher = open_session(with_outputs(trainee.model, [pair.teacher for pair in self.pairs]))

    def parts(self, parts: Mapping[str, Tensor], seen: Seen) -> Mapping[str, Tensor]:
        """With the hidden states as one more part, as large as the others together where its weight is 1."""
        if not self.pairs:
            return parts
        theirs = self._teacher.run(seen.feeds)
        distances = []
        for pair in self.pairs:
            student = seen.outputs[pair.student].float()
            teacher = torch.from_numpy(np.asarray(theirs[pair.teacher])).to(student)
            port = Port(pair.teacher, np.dtype(np.float32), (None,) * teacher.dim())
            where = objectives.valid(self._trainee.original.inputs, seen.feeds, port, tuple(teacher.shape))
            distances.append(objectives.relative_squares(student, teacher, pair.features, where))
        mean = torch.stack(distances).mean()
        rest = objectives.total(parts)
        scale = (rest / mean.clamp(min=1e-6)).detach()
        return {**parts, "tokens": self._weight * scale * mean}

    def summary(self) -> dict[str, Any]:
        """Cuts, and how many hidden states were matched."""
        return {"rounds": [dict(one) for one in self._rounds], "hidden_states": len(self.pairs)}
