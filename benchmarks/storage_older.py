"""Load and run ONNX files in whichever onnxruntime runs this: JSON of milliseconds and digests.

    PYTHON benchmarks/storage_older.py FEEDS.npz ROUNDS MODEL.onnx [...]

Needs numpy and onnxruntime alone, so that it runs in an environment of an older one. Beside each model its graph as the
session runs it is written, `MODEL.onnx.optimized`.
"""

import hashlib
import json
import sys
import time

import numpy as np
import onnxruntime as ort


def main(feeds_file: str, rounds: int, models: list[str]) -> None:
    """Print what loading and running took."""
    with np.load(feeds_file) as held:
        feeds = dict(held)
    sessions, loads = [], []
    for model in models:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        start = time.perf_counter()
        sessions.append(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
        loads.append((time.perf_counter() - start) * 1000)
        options.optimized_model_filepath = f"{model}.optimized"
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    runs: list[list[float]] = [[] for _ in models]
    digests = [""] * len(models)
    for turn in range(-3, rounds):
        for place in range(len(models)):
            at = (turn + place) % len(models)
            start = time.perf_counter()
            outputs = sessions[at].run(None, feeds)
            if turn >= 0:
                runs[at].append((time.perf_counter() - start) * 1000)
            digests[at] = hashlib.sha256(b"".join(value.tobytes() for value in outputs)).hexdigest()
    results = [
        {"load_ms": load, "runs_ms": run, "digest": digest}
        for load, run, digest in zip(loads, runs, digests, strict=True)
    ]
    print(json.dumps({"version": ort.__version__, "results": results}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
