"""Edits, plans and reports as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change at one site.

    Attributes:
        id: unique in its plan, `{pass}.{site}` with a counter where a site is edited more than once.
        pass_name: name of the pass that proposed it and can apply it.
        site: id of the site.
        kind: what is done, in the pass's own vocabulary, e.g. `quantize-linear` or `remove-units`.
        args: JSON values; everything that `apply` needs besides the tensors.
        depends_on: ids of edits that must be applied before; reverting one of them drops this edit too.
        tensors: solved values by short name; they are stored as `{id}/{name}` beside the plan.
    """

    id: str
    pass_name: str
    site: str
    kind: str
    args: Mapping[str, Any] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    tensors: Tensors = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one edit did. Parameters count numbers, bytes count their storage in the file."""

    site: str
    what: str
    params_before: int = 0
    params_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A site that was left alone, or an edit that was reverted, and the true reason."""

    site: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one pass changed, what it left alone and why, and which of its edits were taken back."""

    pass_spec: str
    changes: tuple[Change, ...] = ()
    skips: tuple[Skip, ...] = ()
    reverted: tuple[Skip, ...] = ()
