"""What milliseconds hold for: they are worth nothing on another processor or under another runtime."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort


@cache
def machine() -> str:
    """The processor, how many of it there are, and the runtime: a key for what was measured here."""
    return f"{platform.machine()} {_processor()} x{os.cpu_count()}, onnxruntime {ort.__version__}"


def machine_of(place: Any) -> str:
    """What a timer's milliseconds hold for: this machine, unless it says that it times elsewhere."""
    return str(getattr(place, "machine", "")) or machine()


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor()
