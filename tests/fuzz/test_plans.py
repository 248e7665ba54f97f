"""Hostile plans: nothing in one is run, no path in one is followed, and what does not fit is one line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from onnxprune import optimize, pipeline
from tests import graphs
from tests.fuzz.child import Child
from tests.fuzz.damage import bytes_changed, value_changed

# Plans of every kind of edit, by the model that they were made for.
PLANS: tuple[tuple[graphs.Maker, tuple[str, ...]], ...] = (
    (graphs.feed_forward, ("remove-neurons:keep=0.5", "sparse-int8")),
    (graphs.feed_forward, ("factor-linear:energy=0.8", "sparse-int8:linears=stored")),
    (graphs.attention, ("remove-heads:keep=1", "sparse-int8")),
    (graphs.convolution, ("remove-channels:keep=0.5", "sparse-int8")),
)


@pytest.fixture(scope="module", name="child")
def _child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


@pytest.fixture(scope="module", name="plans")
def _plans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders, each with `model.onnx` and `small.plan.json`."""
    folders = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "TIMING_S", 0.01)
        for make, passes in PLANS:
            folder = tmp_path_factory.mktemp("plan")
            path = graphs.saved(make(), folder)
            result = optimize(path, output=folder / "small.onnx", passes=passes, allow_synthetic=True)
            assert json.loads(result.plan.read_text())["edits"]
            folders.append(folder)
    return folders


@pytest.mark.parametrize("cases", [150, pytest.param(3000, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
def test_hostile_plans_never_end_in_a_traceback(child: Child, plans: list[Path], tmp_path: Path, cases: int) -> None:
    for case in range(cases):
        chance = random.Random(case)  # noqa: S311 - chance, not secrets
        source = chance.choice(plans)
        inside = tmp_path / "inside"
        inside.mkdir()
        for name in ("model.onnx", "small.plan.safetensors"):
            shutil.copy(source / name, inside / name)
        document = json.loads((source / "small.plan.json").read_text())
        if chance.random() < 0.3:
            tensors = inside / "small.plan.safetensors"
            tensors.write_bytes(bytes_changed(tensors.read_bytes(), chance, near=400))
        else:
            for _ in range(chance.randint(1, 3)):
                document = value_changed(document, chance)
        # A stranger states no digest, or the right one.
        if isinstance(document, dict):
            document.pop("tensors_sha256", None)
        (inside / "small.plan.json").write_text(json.dumps(document))
        before = {path.name: path.read_bytes() for path in inside.iterdir()}
        plan, out = str(inside / "small.plan.json"), str(inside / "out.onnx")
        answer = child.run(["apply", str(inside / "model.onnx"), plan, "-o", out, "--force"])
        assert not answer.trace, f"case {case}: {answer.trace}"
        assert answer.code in (0, 2), case
        after = {path.name: path.read_bytes() for path in inside.iterdir()}
        assert {name: after[name] for name in before} == before, case
        assert set(after) - set(before) == ({"out.onnx"} if answer.code == 0 else set()), case
        if answer.code == 2:
            assert len(answer.stderr.splitlines()) == 1, f"case {case}: {answer.stderr}"
        assert {path.name for path in tmp_path.iterdir()} == {"inside"}, case
        shutil.rmtree(inside)


def test_the_plans_hold_edits_with_tensors(plans: list[Path]) -> None:
    assert all(load_file(folder / "small.plan.safetensors") for folder in plans)
