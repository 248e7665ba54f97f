"""Hostile sample files: read as samples, or refused in one line, whatever their headers claim."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnxprune.data import load_samples
from onnxprune.errors import DataError
from onnxprune.model import load
from onnxprune.runtime import Feeds, Port, open_session
from tests import graphs
from tests.fuzz.damage import bytes_changed

_DESCRIPTIONS = ("<f4", "<f8", "|O", "<i8", "|S9", "<U4", "|V8", "<M8[s]", "|b1", "<c8", ">f4", "zz", "")
_NAMES = ("x.npy", "y.npy", "../x.npy", "/x.npy", "x", "x.npy/", "labels.npy", "x.npy\0", "é.npy")


@pytest.fixture(scope="module", name="ports")
def _ports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Port, ...]:
    path = graphs.saved(graphs.feed_forward(), tmp_path_factory.mktemp("model"))
    return tuple(open_session(load(path)).inputs)


def archive(chance: random.Random, width: int) -> bytes:
    """An .npz with headers that claim what they like, some of it damaged."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as file:
        for _ in range(chance.randint(0, 3)):
            array = io.BytesIO()
            np.lib.format.write_array(array, np.ones((chance.randint(0, 5), 3, width), np.float32))
            member = array.getvalue()
            if chance.random() < 0.5:
                shape = tuple(
                    chance.choice([0, 1, -1, 3, width, 10**6, 2**40, 2**63]) for _ in range(chance.randint(0, 4))
                )
                head = {"descr": chance.choice(_DESCRIPTIONS), "fortran_order": chance.random() < 0.3, "shape": shape}
                text = (repr(head) + "\n").encode("latin1")
                member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(chance.randint(0, 200))
            file.writestr(chance.choice(_NAMES), member)
    data = held.getvalue()
    return bytes_changed(data, chance) if chance.random() < 0.5 else data


def feeds_of(path: Path, ports: tuple[Port, ...]) -> tuple[list[Feeds], str]:
    """What was read, or why it was refused."""
    try:
        return [dict(feed) for feed in load_samples(str(path), ports).feeds], ""
    except DataError as error:
        return [], str(error)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("cases", [150, pytest.param(3000, marks=pytest.mark.nightly)])
def test_hostile_samples_are_read_or_refused(ports: tuple[Port, ...], tmp_path: Path, cases: int) -> None:
    path = tmp_path / "samples.npz"
    (port,) = ports
    width = port.shape[-1]
    assert isinstance(width, int)
    read = 0
    for case in range(cases):
        path.write_bytes(archive(random.Random(case), width))  # noqa: S311 - chance, not secrets
        feeds, refusal = feeds_of(path, ports)
        assert len(refusal.splitlines()) <= 1, f"case {case}: {refusal}"
        assert all(feed[port.name].dtype == np.float32 and feed[port.name].shape[-1] == width for feed in feeds), case
        read += not refusal
    # Some must come through, or nothing behind the reader was tried.
    assert 0 < read < cases
