"""Every test starts with an empty cache of its own: no result of one may come from another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from onnxprune.store import FOLDER_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that serve several tests: nothing reaches the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("session-cache")))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where this test's entries lie."""
    folder = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv(FOLDER_VARIABLE, folder)
    return folder
