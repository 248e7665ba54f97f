import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import environments, peer_inputs, peers, results_checks, results_page, results_picture
from benchmarks.contenders import shortened
from benchmarks.packages import FetchError

Row = dict[str, Any]


def _row(name: str, own: bool, speedup: float, explained: float, size: int, score: float = 1.0) -> Row:
    timing = {"speedup": speedup, "low": speedup, "high": speedup, "median_ms": 10 / speedup}
    return {
        "contender": name, "own": own, "error": "", "cost": None, "cost_is": "", "bytes": size, "share": size / 100,
        "gzip_bytes": size, "load_ms": 1.0, "memory": None, "explained": explained, "same": None,
        "compared_on": "samples", "batches": {"1": timing, "8": timing},
        "scores": [{"task": "accuracy", "value": score, "reference": 1.0, "n": 9, "difference_low": 0.0,
                    "difference_high": 0.0}],
    }  # fmt: skip


def _model(name: str, *rows: Row) -> Row:
    every = [_row("fp32", False, 1.0, 1.0, 100), *copy.deepcopy(rows)]
    for one in every:
        one["time_of"] = {
            other["contender"]: dict.fromkeys(
                ("median", "low", "high"), other["batches"]["1"]["speedup"] / one["batches"]["1"]["speedup"]
            )
            for other in every
            if other is not one
        }
    return {"model": name, "bytes": 100, "input": {"x": [1, 4]}, "rows": every}


def test_a_peer_wins_only_where_it_is_faster_and_more_faithful_than_everything_of_ours() -> None:
    ours = (_row("quick", True, 3.0, 0.90, 20), _row("careful", True, 2.0, 0.99, 25))
    between = _model("ppocr-rec", *ours, _row("peer", False, 2.5, 0.95, 30))
    assert [one["holds"] for one in results_checks.checks({"models": [between]})] == [True]
    beyond = _model("ppocr-rec", *ours, _row("peer", False, 3.5, 0.995, 30))
    (check,) = results_checks.checks({"models": [beyond]})
    assert (check["holds"], check["came"]) == (False, "peer")
    # Faster than the careful one and more faithful than the quick one, never both beside one of them.
    assert not [one for one in results_checks.wins(between) if "more faithful" in one]
    assert "careful: peer faster and more faithful" in results_checks.wins(beyond)


def test_the_floor_leaves_out_what_scores_too_little() -> None:
    # Ours of speed 6 keeps 97 % and does not count: 4 / 2.5 = 1.6; the peer of speed 5 keeps 90 %. Files: 10 of 25.
    model = _model(
        "minilm-x",
        _row("ours, too short", True, 6.0, 0.8, 5, score=0.97),
        _row("ours", True, 4.0, 0.9, 10, score=0.98),
        _row("peer, too short", False, 5.0, 0.8, 8, score=0.9),
        _row("peer", False, 2.5, 0.97, 25, score=0.99),
    )
    faster, smaller = results_checks.checks({"models": [model]})
    assert faster["came"] == "1.60 (1.60 … 1.60): ours beside peer"
    assert smaller["came"] == "0.400: ours beside peer"
    assert faster["holds"]
    assert smaller["holds"]


def test_a_front_leaves_out_whoever_is_slower_and_no_better() -> None:
    points = [{"x": 1.0, "y": 0.5}, {"x": 2.0, "y": 0.9}, {"x": 3.0, "y": 0.8}, {"x": 4.0, "y": 1.0}]
    assert [one["x"] for one in results_picture.front_of(points)] == [1.0, 2.0, 4.0]


def test_a_contender_that_failed_is_a_row_with_its_error() -> None:
    model = _model("ppocr-rec", _row("ours", True, 2.0, 0.9, 20))
    failed = copy.deepcopy(model["rows"][0]) | {"contender": "broken", "error": "exit 1: no kernel", "batches": {}}
    model["rows"].append(failed)
    machine = {
        "cpu": "a", "cores": 2, "int8_instructions": ["avx2"], "memory_gb": 4, "system": "Linux", "python": "3.11",
        "versions": {"onnx": "1"},
    }  # fmt: skip
    page = results_page.markdown({"machine": machine, "models": [model], "contenders": []})
    assert "| broken | exit 1: no kernel |" in page
    assert page.index("| **ours** |") < page.index("| broken |")


def test_an_error_is_told_without_paths_of_the_machine() -> None:
    said = "Traceback\n  File x\nRuntimeError: cannot read /home/somebody/models/model.onnx: no such operator\n\n"
    assert shortened(said) == "RuntimeError: cannot read model.onnx: no such operator"
    assert len(shortened("E: " + "x" * 500)) == 200


def test_sample_inputs_are_cut_to_the_rank_that_the_model_reads(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "n"]),
    ]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", inputs, [inputs[0]])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    # Rows of x are samples of batch 1; states come as whole feeds, one rank more than the input.
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3), np.float32), state=np.zeros((4, 2, 1), np.float32))
    feeds = list(peer_inputs.samples(tmp_path / "m.onnx", {"data": str(tmp_path / "d.npz")}))
    assert [{name: one.shape for name, one in feed.items()} for feed in feeds] == [{"x": (1, 3), "state": (2, 1)}] * 4


def test_a_tool_that_needs_sample_inputs_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^needs sample inputs, and there are none for this model\.$"):
        next(peer_inputs.samples(tmp_path / "m.onnx", {"data": None}))


def test_every_peer_names_an_environment_that_pins_its_package() -> None:
    for peer in peers.PEERS.values():
        assert peer.package in environments.versions(peer.environment)
    with pytest.raises(FetchError, match=r"^No environment named 'none'\. Known: neural-compressor, nncf, "):
        environments.requirements("none")
