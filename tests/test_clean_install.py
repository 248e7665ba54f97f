"""What users install works alone: a wheel, in an environment without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests import graphs

ROOT = Path(__file__).parents[1]


def done(*command: str, cwd: Path | None = None) -> str:
    """What a command printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module", name="wheel")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: what an earlier build left in the checkout must not get into this one.
    source = folder / "source"
    source.mkdir()
    for name in ("onnxprune", "passes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    done(*pip, "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("onnxprune-*.whl")
    return wheel


def test_the_wheel_holds_every_module_once(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "onnxprune").rglob("*.py")}
    package |= {f"onnxprune/passes/{path.name}" for path in (ROOT / "passes").glob("*.py")}
    assert {name for name in names if name.endswith(".py")} == package
    assert "onnxprune/py.typed" in names
    assert not [name for name in names if name.startswith(("passes/", "tests/", "benchmarks/", "fixtures/"))]


@pytest.mark.timeout(180)
def test_optimize_runs_without_torch(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    done(sys.executable, "-m", "venv", str(environment))
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    done(*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    assert done(str(python), "-c", "import importlib.util as u; print(u.find_spec('torch'))").strip() == "None"
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    command = environment / "bin" / "onnxprune"
    printed = done(str(command), "optimize", str(path), "-o", "small.onnx", cwd=tmp_path)
    assert "small.onnx — 0.2" in printed
    assert (tmp_path / "small.onnx").stat().st_size < 0.35 * path.stat().st_size
    done(str(command), "apply", str(path), "small.plan.json", "-o", "again.onnx", cwd=tmp_path)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


@pytest.mark.parametrize("module", ["onnxprune", "onnxprune.errors"])
def test_importing_the_package_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([n for n in ('torch', 'onnxruntime', 'onnx', 'numpy') if n in sys.modules])"
    assert done(sys.executable, "-c", code).strip() == "[]"


def test_the_command_line_starts_without_the_runtime() -> None:
    code = "import sys, onnxprune.cli; print([n for n in ('torch', 'onnxruntime', 'onnx') if n in sys.modules])"
    assert done(sys.executable, "-c", code).strip() == "[]"


def test_optimize_never_imports_torch(tmp_path: Path) -> None:
    path = graphs.saved(graphs.matmul(), tmp_path)
    code = (
        "import sys; from onnxprune import optimize, pipeline; pipeline.TIMING_S = 0.01; "
        f"optimize({str(path)!r}); print('torch' in sys.modules)"
    )
    assert done(sys.executable, "-c", code).strip() == "False"


def test_the_citation_names_the_version_that_is_built() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= cited.keys()
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
