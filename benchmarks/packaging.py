"""Whether what is published installs and works: wheel and sdist in clean environments of every Python that is here.

    python -m benchmarks.packaging [--folder benchmarks] [--pythons 3.11 3.12 3.13]
    python -m benchmarks.packaging --imports

Writes `packaging.json` after each row, and `packaging.md` from it. Builds the wheel and the sdist, and for each Python
makes an environment, installs the wheel as a user would (the sdist for the first alone), and runs the command on a
small model; what cannot be installed says why. Rows of earlier runs stay. `--imports` times the import alone, here, in
fresh processes, the median of fifteen: run it on a machine that does nothing else.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.script import machine
from benchmarks.tables import table

_ROOT = Path(__file__).parents[1]
_MODEL = _ROOT / "fixtures" / "fashion-convnet" / "model.onnx"
_IMPORTS = 15
_PACKAGES = ("numpy", "onnx", "onnxruntime", "scipy")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, install, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks"))
    parser.add_argument("--pythons", nargs="+", default=["3.11", "3.12", "3.13"])
    parser.add_argument("--imports", action="store_true")
    options = parser.parse_args(arguments)
    path = options.folder / "packaging.json"
    result: Row = json.loads(path.read_text()) if path.exists() else {"rows": []}

    def write() -> None:
        path.write_text(json.dumps(result, indent=1) + "\n")
        (options.folder / "packaging.md").write_text(page(result))

    if options.imports:
        result["import"] = {"python": platform.python_version(), **imported(Path(sys.executable))}
        write()
        return
    with tempfile.TemporaryDirectory() as scratch:
        built = built_files(Path(scratch))
        result |= {"machine": machine(), "files": {one.name: one.stat().st_size for one in built.values()}}
        # A wheel is the same files for every Python, and so is what an sdist makes: one of them says enough of that.
        wanted = [*((python, "wheel") for python in options.pythons), (options.pythons[0], "sdist")]
        for python, kind in wanted:
            made = row(python, kind, built[kind], Path(scratch))
            same = (made["python"], kind)
            result["rows"] = [one for one in result["rows"] if (one["python"], one["file"]) != same] + [made]
            write()


def built_files(folder: Path) -> dict[str, Path]:
    """The wheel and the sdist, made from a copy of what git knows."""
    source = folder / "source"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        path = _ROOT / name
        if name.partition("/")[0] in {"onnxprune", "passes"} or "/" not in name:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target, follow_symlinks=False)
    environment = folder / "build"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip(python, "build")
    subprocess.run([str(python), "-m", "build", "--outdir", str(folder / "dist"), str(source)], check=True, stdout=-3)
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def pip(python: Path, *names: str) -> None:
    """Install, or raise with what pip said."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *names]
    subprocess.run(command, check=True, capture_output=True, text=True)


def row(python: str, kind: str, path: Path, scratch: Path) -> Row:
    """One file in one clean environment."""
    found = shutil.which(f"python{python}")
    if found is None:
        return {"python": python, "file": kind, "why": "not on this machine"}
    environment = scratch / f"{kind}-{python}"
    try:
        subprocess.run([found, "-m", "venv", str(environment)], check=True, capture_output=True, text=True)
        own = environment / "bin" / "python"
        pip(own, str(path))
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines() or [str(error)]
        return {"python": python, "file": kind, "why": lines[-1][:300]}
    result = {"python": version(own), "file": kind}
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = scratch / f"{kind}-{python}.onnx"
    for name, command in (
        ("script", [str(environment / "bin" / "onnxprune"), "--version"]),
        ("module", [str(own), "-m", "onnxprune", "optimize", str(_MODEL), "-o", str(output), "--json"]),
    ):
        done = subprocess.run(command, cwd=scratch, env=clean, capture_output=True, text=True, check=False)
        result[name] = done.returncode
        if name == "module" and not done.returncode:
            result["share"] = output.stat().st_size / _MODEL.stat().st_size
    listed = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {_PACKAGES!r}}}))"
    result["versions"] = json.loads(subprocess.run([str(own), "-c", listed], capture_output=True, check=True).stdout)
    shutil.rmtree(environment)
    return result


def version(python: Path) -> str:
    """Of an interpreter."""
    code = "import platform; print(platform.python_version())"
    return subprocess.run([str(python), "-c", code], capture_output=True, check=True, text=True).stdout.strip()


def imported(python: Path) -> Row:
    """Seconds that importing the package takes, and those of the command line's own part."""
    found: Row = {}
    for name, module in (("import_s", "onnxprune"), ("import_cli_s", "onnxprune.cli")):
        code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        runs = [
            float(subprocess.run([str(python), "-I", "-c", code], capture_output=True, check=True).stdout)
            for _ in range(_IMPORTS)
        ]
        found[name] = statistics.median(runs)
    return found


def page(result: Row) -> str:
    """What `packaging.md` holds."""
    rows = []
    for one in result["rows"]:
        if "why" in one:
            rows.append([one["python"], one["file"], f"cannot: {one['why']}", "", "", ""])
            continue
        versions = ", ".join(f"{name} {number}" for name, number in one["versions"].items())
        rows.append(
            [
                one["python"],
                one["file"],
                "yes",
                "yes" if one["script"] == 0 else f"exit {one['script']}",
                f"yes, {one['share']:.3f} x the file" if one["module"] == 0 else f"exit {one['module']}",
                versions,
            ]
        )
    sizes = ", ".join(f"`{name}` {size / 1000:.0f} kB" for name, size in result["files"].items())
    head = (
        "Python",
        "file",
        "installs",
        "`onnxprune`",
        "`python -m onnxprune optimize`",
        "with",
    )
    where = f"fixtures/fashion-convnet, {result['machine']['cpu']}"
    parts = [
        "# Packaging",
        "Generated by `python -m benchmarks.packaging`; not edited by hand.",
        f"{sizes}. Each in a clean environment with what PyPI gives on that day; {where}.",
        table(head, rows),
    ]
    if "import" in result:
        one = result["import"]
        parts.append(
            f"`import onnxprune` takes {1000 * one['import_s']:.0f} ms, and the command line's own part "
            f"{1000 * one['import_cli_s']:.0f} ms: medians of {_IMPORTS} fresh processes, Python {one['python']}."
        )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
