"""Python environments of the tools that onnxprune is compared with, one for each set of packages that clash.

    python -m benchmarks.environments [NAME ...]       make them, and print their interpreters

What each holds stands in `environments/NAME.txt`. They lie in the benchmarks' cache and are made again when that file
changes.
"""

import hashlib
import re
import subprocess
import sys
import venv
from functools import cache
from pathlib import Path

from benchmarks import packages

_LISTS = Path(__file__).with_name("environments")
_LIMIT_S = 1800


def names() -> list[str]:
    """Return the environments that there are."""
    return sorted(path.stem for path in _LISTS.glob("*.txt"))


def versions(name: str) -> dict[str, str]:
    """Return the packages that an environment pins."""
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", requirements(name).read_text(encoding="utf-8"), re.MULTILINE))


def requirements(name: str) -> Path:
    """Return the list of an environment's packages."""
    path = _LISTS / f"{name}.txt"
    if not path.is_file():
        raise packages.FetchError(f"No environment named {name!r}. Known: {', '.join(names())}.")
    return path


@cache
def python(name: str) -> Path:
    """Return the interpreter of an environment, made on first use.

    Raises:
        FetchError: no such environment, or pip could not make it.
    """
    wanted = requirements(name)
    folder = packages.cache_folder("environments") / name
    interpreter, stamp = folder / "bin" / "python", folder / "made-of.sha256"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return interpreter
    venv.create(folder, with_pip=True, clear=True)
    command = [interpreter, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--requirement", wanted]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise packages.FetchError(f"pip could not make environment {name}: {' '.join(errors[:1])}")
    stamp.write_text(digest, encoding="utf-8")
    return interpreter


def main(asked: list[str]) -> None:
    """Make the environments named, or all of them."""
    for name in asked or names():
        print(f"{name} …", file=sys.stderr, flush=True)
        print(python(name))


if __name__ == "__main__":
    main(sys.argv[1:])
