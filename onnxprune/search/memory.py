"""What a search keeps for the next one."""

from __future__ import annotations

from typing import Any, Protocol


class Memory(Protocol):
    """Keeps JSON values by key. A key names everything that the value depends on, so a value never grows stale."""

    def load(self, key: str) -> Any | None:
        """What was saved under a key; None where nothing was, or it cannot be read."""
        ...

    def save(self, key: str, value: Any) -> None:
        """Keep a JSON value."""
        ...


class Forgetful:
    """Keeps values as long as the process lives."""

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}

    def load(self, key: str) -> Any | None:
        """What was saved under a key."""
        return self._held.get(key)

    def save(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._held[key] = value
