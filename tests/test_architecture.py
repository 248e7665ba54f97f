"""Who may import whom: a module imports only from layers above its own."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(__file__).parents[1]

# DESIGN section 5, top to bottom; modules of one layer may import each other where no cycle arises.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("files", "flattening", "memory", "progress", "ranges", "sharing", "sizes", "store", "tensorfile", "user_code"),
    ("model", "graph", "weights", "rewrite", "interface", "inference"),
    ("dimensions", "cut"),
    ("structure", "blocks", "biases", "unchanging", "dead", "folding", "norms"),
    ("sites", "plan", "spec", "solvers"),
    (
        "int4",
        "int8",
        "int8_weights",
        "qdq",
        "grids",
        "low_rank",
        "codes",
        "packing",
        "storage",
        "cost",
        "isomorphism",
        "ngrams",
    ),
    ("pieces", "runtime"),
    ("decoding",),
    (
        "npz",
        "fitting",
        "data",
        "bounds",
        "signature",
        "probing",
        "synthetic",
        "masks",
        "moments",
        "observer",
        "padding",
        "calibration",
        "inputs",
        "cosines",
    ),
    ("protocol",),
    ("removal", "tables", "linears", "factoring", "quantizing", "clustering", "streamlining"),
    ("merging",),
    ("passes",),
    ("roles", "figures", "streams", "fidelity", "divergence", "targets"),
    (
        "bitmasks",
        "bundling",
        "importing",
        "measurement",
        "footprint",
        "judge",
        "metrics",
        "loss",
        "latency",
        "comparison",
        "reverting",
        "mixing",
        "acceptance",
        "rivalry",
        "closeness",
        "subject",
        "teaching",
        "replaying",
        "steps",
        "suiting",
        "inspection",
        "learn",
        "result",
        "deployment",
    ),
    ("unpacking",),
    ("resuming",),
    ("stages",),
    ("mutants", "attribution", "repairing"),
    ("search",),
    ("gradual", "recipes"),
    ("bench",),
    ("trials",),
    ("cluster",),
    ("front", "blaming", "heads", "pipeline", "recovering", "sweeping"),
    ("exporting",),
    ("training", "torch_training", "systems"),
    ("checking",),
    ("report",),
    ("cli",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ONLY_IN = {
    "onnxruntime": {"runtime", "targets", "deployment", "cli"},
    "rich": {"report", "cli"},
    "click": {"cli"},
    "matplotlib": {"report"},
    "torch": {"learn", "exporting"},
    "distributed": {"cluster"},
}


def sources() -> list[Path]:
    package = [path for path in (ROOT / "onnxprune").rglob("*.py") if "passes" not in path.parts]
    return [*package, *(ROOT / "passes").glob("*.py")]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "passes" else parts[1]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            if node.module == "onnxprune":
                found |= {f"onnxprune.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_above_its_own(path: Path) -> None:
    own = module_of(path)
    if own in {"__init__", "__main__"}:
        assert RANK  # the public surface looks names up in every layer
        return
    assert own in RANK, f"{own} stands in no layer: add it to DESIGN's layout and to this test"
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "onnxprune" and len(parts) > 1:
            assert RANK[parts[1]] <= RANK[own], f"{path}: {own} must not import {parts[1]}"


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_a_heavy_package_is_imported_only_where_its_layer_allows(package: str) -> None:
    found = {module_of(path) for path in sources() if package in {name.split(".")[0] for name in imports_of(path)}}
    assert found <= ONLY_IN[package]


def test_no_module_is_longer_than_one_idea() -> None:
    long = {str(path): lines for path in sources() if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_no_module_hides_a_public_name() -> None:
    """Importing a submodule sets it on its package, over a function of that name."""
    modules = {path.stem for path in (ROOT / "onnxprune").glob("*.py")} | {
        path.name for path in (ROOT / "onnxprune").iterdir() if path.is_dir()
    }
    assert not modules & set(onnxprune.__all__)


def test_every_package_is_shipped() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "onnxprune").rglob("__init__.py")}
    assert shipped == sorted(".".join(folder.parts) for folder in folders | {Path("onnxprune/passes")})
