"""What a run's operators take."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from onnxprune.runtime.options import session_options
from onnxprune.runtime.ports import Feeds
from onnxprune.runtime.sessions import session_of


def operator_times(path: Path | str, feeds: Feeds, *, runs: int = 10) -> dict[str, float]:
    """Milliseconds of a run by operator, medians, from the runtime's own profile of one thread; profiling adds to each.

    Raises:
        ModelError: onnxruntime refuses the model, or fails on the feeds.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        options = session_options("default", 1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = session_of(path, options)
        for _ in range(runs + 1):
            session.run(feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent.setdefault(event["args"]["op_name"], []).append(event["dur"] / 1e3)
    # Every run holds the same number of nodes; the first warms up.
    return {op: float(np.median(np.reshape(times, (runs + 1, -1)).sum(axis=1)[1:])) for op, times in spent.items()}
