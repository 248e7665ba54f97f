"""Magika on the files inside the benchmarks' own pinned packages, whose extension says their type."""

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import packages
from benchmarks.scores import Score, mean
from benchmarks.sessions import open_session

_EACH = 16
_CONFIG = "magika/models/standard_v3_3/config.min.json"
_KNOWLEDGE = "magika/config/content_types_kb.min.json"
# Debian packages whose files come beside those of the wheels.
_DEBIAN = ("tuxpaint-stamps-default", "alsa-utils", "fonts-dejavu-core")


@cache
def _samples() -> tuple[tuple[str, NDArray[np.int32]], ...]:
    """Return (type, features [2048]) of at most 32 files of each type: even places serve the task."""
    config = json.loads(packages.file("magika", _CONFIG).read_text(encoding="utf-8"))
    types = _types(set(config["target_labels_space"]))
    found: dict[str, list[NDArray[np.int32]]] = {}
    for name, content in _files(tuple(types)):
        kept = found.setdefault(types[Path(name).suffix], [])
        if len(kept) < 2 * _EACH and len(content.strip()) >= config["min_file_size_for_dl"]:
            kept.append(features(content, config))
    return tuple((kind, row) for kind in sorted(found) for row in found[kind])


def _types(known: set[str]) -> dict[str, str]:
    """Return suffix -> type, for the suffixes that name one type only."""
    knowledge = json.loads(packages.file("magika", _KNOWLEDGE).read_text(encoding="utf-8"))
    owners: dict[str, set[str]] = {}
    for kind in known & set(knowledge):
        for extension in knowledge[kind]["extensions"]:
            owners.setdefault(f".{extension}", set()).add(kind)
    return {suffix: next(iter(kinds)) for suffix, kinds in owners.items() if len(kinds) == 1}


def _files(suffixes: tuple[str, ...]) -> list[tuple[str, bytes]]:
    files = []
    for line in packages.ASSETS.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            with zipfile.ZipFile(packages.wheel(line.split("==")[0])) as archive:
                files += [(name, archive.read(name)) for name in sorted(archive.namelist()) if name.endswith(suffixes)]
    for package in _DEBIAN:
        paths = (path for path in sorted(packages.debian(package).rglob("*")) if path.is_file())
        files += [(path.name, path.read_bytes()) for path in paths if path.name.endswith(suffixes)]
    return files


def features(content: bytes, config: dict[str, Any]) -> NDArray[np.int32]:
    """Return the bytes at both ends, stripped of white space and padded to fixed lengths, as magika cuts them."""
    block, begin, end = config["block_size"], config["beg_size"], config["end_size"]
    row = np.full(begin + end, config["padding_token"], dtype=np.int32)
    head = content[:block].lstrip()[:begin]
    tail = content[-block:].rstrip()[-end:]
    row[: len(head)] = np.frombuffer(head, dtype=np.uint8)
    row[begin + end - len(tail) :] = np.frombuffer(tail, dtype=np.uint8)
    return row


def classification(path: Path) -> tuple[Score]:
    """Share of files whose type the model at `path` names."""
    labels = json.loads(packages.file("magika", _CONFIG).read_text(encoding="utf-8"))["target_labels_space"]
    session = open_session(path)
    hits = [
        labels[int(session.run(None, {"bytes": row[None]})[0][0].argmax())] == kind for kind, row in _samples()[::2]
    ]
    return (Score(task="file type accuracy", items=np.array(hits, dtype=float)[:, None], statistic=mean),)


def calibration(samples: int = 64) -> dict[str, NDArray[np.int32]]:
    """Return features [samples, 2048] of files that the task does not use."""
    rest = [row for _, row in _samples()[1::2]]
    chosen = np.random.default_rng(0).permutation(len(rest))[:samples]
    return {"bytes": np.stack([rest[index] for index in chosen])}
