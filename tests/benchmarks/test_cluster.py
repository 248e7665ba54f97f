"""What must hold of a cluster, as its benchmark measures it: twelve points, two workers, one of them killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cluster


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_two_workers_find_the_front_of_one_process_though_one_is_killed(tmp_path: Path) -> None:
    cluster.main(["--folder", str(tmp_path)])
    rows = json.loads((tmp_path / "cluster.json").read_text())["rows"]
    assert [row["run"] for row in rows] == ["the clock speaks", "one process", "two workers", "two workers, one killed"]
    assert {row["trials"] for row in rows} == {12}
    assert not [row["failed"] for row in rows if row["failed"]]
    for row in rows[2:]:
        assert row["same_front"]
        assert row["same_bytes"][0]
        assert row["same_bytes"][1] >= 4
    assert "two workers, one killed" in (tmp_path / "cluster.md").read_text()
