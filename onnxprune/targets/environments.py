"""Where targets live that onnxruntime's wheel does not hold: folders that the scripts of benchmarks/targets fill."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from onnxprune.targets.process import Process

# Names the folder that holds every environment.
VARIABLE = "ONNXPRUNE_TARGETS"
# Written last by a script of benchmarks/targets, which states the same number: what it made is whole and of this form.
READY = "ready.json"
_SETUPS = {"xnnpack": 1, "arm64": 1, "web": 1, "xnnpack-web": 1}
_WORKER = Path(__file__).with_name("worker.py")
_WEB_WORKER = Path(__file__).with_name("worker.cjs")
# The emulator is some thirty times slower than the machine that it runs on.
_EMULATED_LIMIT_S = 1800.0
# A class of phones from 2018 on: 8-bit dot products, half precision, no matrix extensions.
_ARM_CPU = "cortex-a76"


@dataclass(frozen=True)
class Missing:
    """Why a target cannot be used here, and what mends it.

    Attributes:
        command: sets it up; empty where nothing does.
    """

    reason: str
    command: str = ""

    def __str__(self) -> str:
        """One line."""
        return f"{self.reason}; {self.command} sets it up" if self.command else self.reason


def folder() -> Path:
    """The user's choice, or `onnxprune/targets` in the user's cache."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "onnxprune" / "targets"


def missing(environment: str) -> Missing | None:
    """What keeps an environment from being used; None where it is set up."""
    command = f"bash benchmarks/targets/{environment}.sh"
    ready = folder() / environment / READY
    try:
        made = json.loads(ready.read_bytes()[:65536])
    except OSError:
        return Missing(f"not set up: {ready.parent} is missing or unfinished", command)
    except ValueError:
        return Missing(f"{ready} is damaged", command)
    if not isinstance(made, dict) or made.get("setup") != _SETUPS[environment]:
        return Missing(f"{ready.parent} was set up by another version of its script", command)
    return None


def own() -> Process:
    """The interpreter and onnxruntime that run this."""
    return Process(command=(sys.executable, "-P", str(_WORKER)))


def xnnpack() -> Process:
    """Debian's onnxruntime with its own Python and its own dynamic loader."""
    root = folder() / "xnnpack"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return Process(
        command=(
            str(root / "usr/lib64/ld-linux-x86-64.so.2"),
            "--library-path",
            f"{libraries}:{libraries}/blas:{libraries}/lapack",
            str(root / "usr/bin/python3"),
            "-P",
            str(_WORKER),
        ),
        environment=_python(root, root / "usr/lib/python3/dist-packages"),
    )


def arm64(*, debian: bool) -> Process:
    """An emulated processor that counts instructions; with Debian's onnxruntime, or the newer one of the wheel."""
    root = folder() / "arm64"
    guest, host = root / "guest", root / "emulator"
    libraries = guest / "usr/lib/aarch64-linux-gnu"
    packages = guest / "usr/lib/python3/dist-packages" if debian else root / "wheels"
    settings = _python(guest, packages) | {
        "LD_LIBRARY_PATH": f"{libraries}:{libraries}/blas:{libraries}/lapack" if debian else str(libraries)
    }
    environment = [part for name, value in settings.items() for part in ("-E", f"{name}={value}")]
    return Process(
        command=(
            str(host / "lib64/ld-linux-x86-64.so.2"),
            "--library-path",
            f"{host}/usr/lib/x86_64-linux-gnu:{host}/lib/x86_64-linux-gnu",
            str(host / "usr/bin/qemu-aarch64"),
            *("-cpu", _ARM_CPU),
            *("-plugin", str(root / "count.so"), "-d", "plugin", "-D", "{counts}"),
            *("-L", str(guest), *environment),
            str(guest / "usr/bin/python3"),
            "-P",
            str(_WORKER),
        ),
        limit_s=_EMULATED_LIMIT_S,
        counted=True,
    )


def web(environment: str) -> Process:
    """onnxruntime-web in Node."""
    return Process(command=(shutil.which("node") or "node", str(_WEB_WORKER), str(folder() / environment)))


def _python(root: Path, packages: Path) -> dict[str, str]:
    return {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}


def missing_web(environment: str) -> Missing | None:
    """As `missing`, for what runs in Node."""
    if shutil.which("node") is None:
        return Missing("Node is not on the PATH", "your package manager (nodejs 18 or later)")
    return missing(environment)
