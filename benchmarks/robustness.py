"""What holds of hostile input, of repeated runs and of pages: counts, each by a command that anyone may repeat.

    python -m benchmarks.robustness [--folder benchmarks] [--only fuzz|determinism|pages]

Writes `robustness.json` after each row; `python -m benchmarks.large --page` puts it into `docs/limits.md`. Fuzzing is
the nightly part of `tests/fuzz`, which takes half an hour on a machine that does nothing else. Pages are those of the
fixtures, opened in headless Chromium, if that is installed: light, dark and as wide as a phone; `--shots FOLDER` keeps
the pictures, for somebody to look at.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_CASES = re.compile(r"\[(\d+)\]$")
_FIXTURES = {"gloss-classifier": "optimize", "fashion-convnet": "sweep"}
# Name, width in pixels, and switches.
_LOOKS = (
    ("light", 1200, ()),
    ("dark", 1200, ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")),
    ("phone", 500, ()),
)

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Count what was asked for, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks"))
    parser.add_argument("--only", choices=("fuzz", "determinism", "pages"))
    parser.add_argument("--shots", type=Path)
    options = parser.parse_args(arguments)
    path = options.folder / "robustness.json"
    result: Row = json.loads(path.read_text()) if path.exists() else {}
    for name, rows in (
        ("fuzz", tested("tests/fuzz", "nightly")),
        ("determinism", tested("tests/test_determinism.py", "")),
        ("pages", pages(options.shots)),
    ):
        if options.only not in {None, name}:
            continue
        result[name] = []
        for row in rows:
            result[name].append(row)
            path.write_text(json.dumps(result, indent=1) + "\n")


def tested(where: str, marker: str) -> Iterator[Row]:
    """Each test file's cases and failures; a test in a process of its own, so that a long one can be seen to end."""
    folder = _ROOT / where
    # The longest last.
    for file in sorted(folder.glob("test_*.py"), reverse=True) if folder.is_dir() else [folder]:
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / "report.xml"
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--junitxml={report}",
                str(file),
            ]
            began = time.perf_counter()
            subprocess.run([*command, *(["-m", marker] if marker else [])], cwd=_ROOT, check=False, stdout=-3)
            cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - written by pytest, just now
        counts = [int(found[1]) for one in cases if (found := _CASES.search(one.get("name", "")))]
        if cases:
            yield {
                "file": file.name,
                "cases": sum(counts) if counts else len(cases),
                "failed": sum(one.find("failure") is not None or one.find("error") is not None for one in cases),
                "seconds": round(time.perf_counter() - began),
            }


def pages(shots: Path | None) -> Iterator[Row]:
    """The page of each fixture: its bytes, and what a browser says of it."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, verb in _FIXTURES.items():
            model, page = _ROOT / "fixtures" / name / "model.onnx", Path(scratch) / f"{name}.html"
            data = model.with_name("calibration.npz")
            output = Path(scratch) / ("small.onnx" if verb == "optimize" else "front")
            command = [verb, str(model), "--data", str(data), "-o", str(output), "--html", str(page)]
            subprocess.run([sys.executable, "-m", "onnxprune", *command], check=False, stdout=-3)
            yield {"fixture": name, "command": verb, "bytes": page.stat().st_size, **looked_at(page, shots)}


def looked_at(page: Path, shots: Path | None = None) -> Row:
    """How often a browser complained of a page, and how many hosts it asked; nothing where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return {}
    complaints = requests = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, width, more in _LOOKS:
            shot, look = Path(scratch) / "shot.png", (f"--window-size={width},3600", *more)
            # A browser has errands of its own, which it runs with an empty page, too.
            _, own = _opened(browser, Path(scratch), shot, look, "about:blank")
            told, asked = _opened(browser, Path(scratch), shot, look, page.resolve().as_uri())
            complaints += told.count("CONSOLE")
            requests += len(asked - own)
            if shots is not None:
                shots.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(shot, shots / f"{page.stem}-{name}.png")
    return {"complaints": complaints, "requests": requests}


def _opened(browser: str, scratch: Path, shot: Path, look: Sequence[str], url: str) -> tuple[str, set[str]]:
    """What a browser says of a page, and the hosts that it asks."""
    log = scratch / "net.json"
    log.unlink(missing_ok=True)
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars",
        f"--user-data-dir={scratch}/profile", f"--log-net-log={log}", f"--screenshot={shot}", *look, url,
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "LANG": "C"})
    found = re.findall(r'"url":"https?://([^/"]+)', log.read_text(errors="replace")) if log.exists() else []
    return done.stderr, set(found)


if __name__ == "__main__":
    main()
