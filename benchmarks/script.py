"""What scripts of this folder share: options, one thread, the machine, two files, and checks that must hold."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def options(doc: str | None, *, rounds: int | None = None, models: bool = False) -> argparse.ArgumentParser:
    """Where the results go, and where asked for how many rounds, and which models by the start of their names."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if models:
        parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX", help="models whose names start so")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"timed runs of each file (default {rounds})")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the results go")
    return parser


def read(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, and keep to one BLAS thread: tools are measured at one, and results repeat."""
    asked = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    return asked


def held(folder: Path, name: str) -> Row:
    """Return what an earlier run wrote, nothing where there was none."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(folder: Path, name: str, result: Row, page: Callable[[Row], str]) -> None:
    """Write `NAME.json`, and `NAME.md` made of what it holds."""
    text = json.dumps(result, indent=1, default=_plain)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(page(json.loads(text)), encoding="utf-8")


def missed(checks: Iterable[tuple[str, Row]]) -> int:
    """Name the checks that do not hold, each after what it is of, and return 1 where there are some."""
    found = [(name, check) for name, check in checks if not check["holds"]]
    for name, check in found:
        print(*filter(None, [name, check["what"], str(check["came"])]), sep=": ", file=sys.stderr)
    return 1 if found else 0


def missed_of(models: Sequence[Row]) -> int:
    """Do so for the checks of each model."""
    return missed((model["model"], check) for model in models for check in model["checks"])


def machine() -> Row:
    """Return what the figures were taken on."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    facts = dict(line.split(":", 1) for line in cpu.split("\n\n", 1)[0].splitlines() if ":" in line)
    stripped = {key.strip(): value.strip() for key, value in facts.items()}
    flags = stripped.get("flags", "").split()
    packages = ("onnxprune", "onnxruntime", "onnx", "torch", "transformers", "numpy")
    return {
        "cpu": stripped.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "int8_instructions": [flag for flag in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if flag in flags],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)
