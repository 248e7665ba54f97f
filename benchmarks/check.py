"""How long `onnxprune check` takes on good models: `python -m benchmarks.check`, whole processes, wall seconds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import models

ROOT = Path(__file__).parents[1]
FIXTURES = ("fashion-convnet", "gloss-classifier", "gloss-gpt")
RUNS = 5


def main() -> None:
    """Write check.json and check.md."""
    paths = {name: ROOT / "fixtures" / name / "model.onnx" for name in FIXTURES}
    paths |= {"MiniLM-L6 (dynamo, sdpa)": models.get("minilm-dynamo-sdpa")}
    rows = [{"model": name, "megabytes": path.stat().st_size / 1e6, **_timed(path)} for name, path in paths.items()]
    target = Path(__file__).with_suffix("")
    target.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    form = "| {model} | {megabytes:.1f} | {median_s:.2f} | {worst_s:.2f} | {exit_code} |"
    table = [form.format(**row) for row in rows]
    text = [
        "# The time that a check takes",
        "",
        f"`onnxprune check MODEL`, the whole process, {RUNS} runs each: wall seconds.",
        "Written by `python -m benchmarks.check`.",
        "",
        "| model | MB | median s | worst s | exit code |",
        "|---|---|---|---|---|",
        *table,
        "",
    ]
    target.with_suffix(".md").write_text("\n".join(text))


def _timed(path: Path) -> dict[str, float]:
    taken, code = [], 0
    for _ in range(RUNS):
        start = time.perf_counter()
        code = subprocess.run(
            [sys.executable, "-m", "onnxprune", "check", str(path)], capture_output=True, check=False
        ).returncode
        taken.append(time.perf_counter() - start)
    return {"median_s": statistics.median(taken), "worst_s": max(taken), "exit_code": code}


if __name__ == "__main__":
    main()
