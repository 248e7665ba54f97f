"""Trials on the workers of a Dask cluster: the same front, clocks where the tag is, nothing lost with a worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from distributed import KilledWorker, SchedulerPlugin

from onnxprune import optimize, sweep, sweeping
from onnxprune.cli import main
from onnxprune.cluster import crew, joining
from onnxprune.cluster.clocks import Elsewhere
from onnxprune.cluster.helping import Helpers
from onnxprune.cluster.lending import Lender
from onnxprune.errors import MissingDependencyError, ModelError, OptionError, TargetError
from onnxprune.store import FOLDER_VARIABLE, Store
from onnxprune.targets.target import parse_target
from onnxprune.targets.timing import REFUSED, Latency, Ratio, Timed
from onnxprune.targets.together import too_slow
from onnxprune.trials import Job, Trial
from tests import graphs
from tests.fronts import RECIPES, prepared

# Times as fast as the original, by the name of the trial: what was cut more is faster here.
TABLE = {"default": 1.5} | {f"recipe-{at}": 1 + at / 10 for at in range(1, len(RECIPES) + 1)}


def by_the_table(_: Job, models: Sequence[str], __: Any = None) -> tuple[Timed, tuple[Timed, ...]]:
    """Figures that no clock disturbs."""

    def timed(name: str, speedup: float) -> Timed:
        latency = Latency(1 / speedup, 1 / speedup, 1 / speedup)
        return Timed(name=name, load_ms=1.0, latency_ms=latency, speedup=Ratio(speedup, speedup, speedup, 11))

    return timed("model", 1.0), tuple(timed(Path(name).stem, TABLE[Path(name).stem]) for name in models)


@pytest.fixture(scope="module", name="shared")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the workers."""
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(scope="module", name="cluster")
def _cluster(shared: Path) -> Iterator[Any]:
    """One worker that does trials and one that keeps the clock, as two machines would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(shared))
        with joining.local(1, "cpu:1") as cluster:
            yield cluster


def plans(folder: Path) -> dict[str, bytes]:
    """Every file of a front but its summary, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "sweep.json"}


def test_a_cluster_finds_the_front_that_one_process_finds_though_a_worker_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, shared: Path, cluster: Any
) -> None:
    path, data = prepared(tmp_path, 8)
    monkeypatch.setattr(sweeping, "time_apart", by_the_table)
    alone = sweep(path, data=data, recipe=RECIPES, output=tmp_path / "alone")
    # The latency table, and nothing else: what a clock decides is the same, what is solved is solved anew.
    for entry in Store(Path(cache)).entries():
        if entry.kind == "timing":
            shutil.copy2(entry.path, shared)
    said: list[str] = []

    def kill_once(stage: str) -> None:
        said.append(stage)
        if len([one for one in said if "is done" in one]) == 1 and "is done" in stage:
            os.kill(cluster.workers["solver-0"].pid, signal.SIGKILL)

    together = sweep(
        path, data=data, recipe=RECIPES, output=tmp_path / "together",
        scheduler=cluster.scheduler_address, progress=kill_once,
    )  # fmt: skip
    assert [one for one in said if "is done" in one]
    assert not together.failed
    assert len(together.front) + len(together.covered) == 12
    assert len(together.front) > 1
    assert [one.name for one in together.front] == [one.name for one in alone.front]
    ours, theirs = alone.to_json(), together.to_json()
    for document in (ours, theirs):
        for one in document["points"]:
            one["plan"] = Path(one["plan"]).name
    assert theirs == ours
    assert plans(tmp_path / "together") == plans(tmp_path / "alone")
    assert json.loads((tmp_path / "together" / "sweep.json").read_text())["points"]
    # What trials left meanwhile is gone.
    assert {one.name for one in tmp_path.iterdir()} == {"model.onnx", "data.npz", "alone", "together"}


def test_clocks_run_where_the_tag_is(tmp_path: Path, cluster: Any) -> None:
    from distributed import Client

    path = graphs.saved(graphs.matmul(), tmp_path)
    feeds = graphs.feeds_for(path, seed=0, batch=1)
    place = Elsewhere("cpu:1", str(tmp_path), (str(path),), "there")
    with Client(cluster):
        first, second = place.time([path, path], feeds, budget_s=0.01)
    assert first.latency_ms.median > 0
    assert second.speedup.ratio > 0
    assert (place.name, place.threads) == ("cpu:1", 1)


def test_who_times_elsewhere_is_like_what_times_there() -> None:
    place = Elsewhere("cpu:2", "", (), "there")
    assert (place.threads, place.signs) == (2, parse_target("cpu:2").signs)
    assert too_slow(place) is None
    # A target of another runtime may refuse models.
    assert too_slow(Elsewhere("web", "", (), "there")) == REFUSED


def test_a_process_does_one_trial_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work: list[int] = []
    most: list[int] = []

    def slow(*_: Any) -> None:
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.pop()

    monkeypatch.setattr(crew, "carry_out", slow)
    job, place = Job(model="m.onnx", data="d.npz"), Elsewhere("cpu:1", "", (), "there")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: crew._carry_out(job, Trial(name=str(at)), "", place), range(4)))
    assert most == [1, 1, 1, 1]


def test_what_is_timed_elsewhere_lies_where_all_can_read_it(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.mkdir()
    shared.mkdir()
    private = graphs.saved(graphs.matmul(), own)
    known = graphs.saved(graphs.matmul(), shared)
    place = Elsewhere("cpu:1", str(shared), (), "there")
    with place._shared([private, known]) as names:
        assert names[1] == str(known)
        assert Path(names[0]).is_relative_to(shared)
        assert Path(names[0]).read_bytes() == private.read_bytes()
    assert [one.name for one in shared.iterdir()] == [known.name]


def test_a_cluster_without_the_tag_is_refused(tmp_path: Path, cluster: Any) -> None:
    path, data = prepared(tmp_path, 8)
    address = cluster.scheduler_address
    with pytest.raises(TargetError) as caught:
        sweep(path, data=data, target="cpu:2", scheduler=address)
    assert str(caught.value) == (
        f"{address}: no worker carries the tag 'cpu:2', and only such a one may time. "
        f"Start one: dask worker {address} --nthreads 1 --resources 'cpu:2=1'."
    )


@pytest.mark.parametrize("command", ["sweep", "optimize"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers is how many processes --scheduler local begins. Give that, too."),
        (["--scheduler", "local", "--workers", "0"], "--workers must be from 1 to 256, got 0."),
        (
            ["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"],
            "--workers is how many processes --scheduler local begins. A cluster brings its own.",
        ),
        (
            ["--scheduler", "tcp://127.0.0.1:1"],
            "--scheduler tcp://127.0.0.1:1: no scheduler answers there. Start one with dask scheduler, or say local.",
        ),
        (
            ["--scheduler", "nothing"],
            "--scheduler nothing: no scheduler answers there. Start one with dask scheduler, or say local.",
        ),
    ],
)
def test_a_cluster_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str, command: str
) -> None:
    monkeypatch.setattr(joining, "_ANSWER_S", 0.5)
    path, data = prepared(tmp_path, 8)
    result = CliRunner().invoke(main, [command, str(path), "--data", data, *options])
    assert (result.exit_code, result.stderr) == (2, f"onnxprune: {message}\n")
    assert {one.name for one in tmp_path.iterdir()} == {"model.onnx", "data.npz"}


@pytest.mark.parametrize("job", [sweep, optimize])
def test_without_dask_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Callable[..., object]
) -> None:
    path, data = prepared(tmp_path, 8)
    monkeypatch.setattr(joining, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as caught:
        job(path, data=data, scheduler="local")
    assert str(caught.value) == "--scheduler needs dask.distributed. Install it: pip install 'onnxprune[cluster]'."


def test_a_model_that_is_not_there_is_the_users_news(tmp_path: Path) -> None:
    _, data = prepared(tmp_path, 8)
    with pytest.raises(ModelError, match="no such file"):
        sweep(tmp_path / "none.onnx", data=data, scheduler="local")


OTHER = "0" * 64


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ((OTHER, None, ""), "MODEL is another file there. Put it on storage that all workers share."),
        ((None, None, ""), "MODEL cannot be read there. Put it on storage that all workers share."),
        ((None, "older", ""), "runs another version of onnxprune. Install the same one on every worker."),
        (
            ImportError("no 'onnxprune'"),
            "cannot run onnxprune (ImportError: no 'onnxprune'). Install the same version on every worker.",
        ),
    ],
)
def test_workers_that_cannot_do_the_job_are_refused(tmp_path: Path, said: Any, message: str) -> None:
    path, _ = prepared(tmp_path, 8)
    own = joining._look(str(path))
    if isinstance(said, tuple):
        # An older version has the right file.
        said = (own[0] if said[1] else said[0], said[1] or own[1], "")

    class Client:
        """Two workers, one of which is no good."""

        def scheduler_info(self, **_: int) -> dict[str, Any]:
            """Both."""
            return {"workers": {"tcp://a": {}, "tcp://b": {}}}

        def run(self, *_: Any, **__: Any) -> dict[str, Any]:
            """What each sees."""
            return {"tcp://a": own, "tcp://b": said}

    with pytest.raises(OptionError) as caught:
        joining._looked_at(Client(), str(path), "tcp://scheduler")
    assert str(caught.value) == f"tcp://b: {message.replace('MODEL', str(path))}"


# What a layer's solve may be: with cross-moments and gains, without, pairs, codebooks, zeros that are weighed.
SOLVES = (
    ("factor-linear:ratio=0.6,faster=no", "sparse-int8:linears=stored,sparsity=0.5"),
    ("cluster:centroids=16",),
    ("sparse-int8:linears=stored,bits=4,sparsity=0.5,sequential=no,allocation=loss",),
)


def test_layers_solved_on_a_cluster_are_the_bytes_that_one_process_finds_though_a_worker_dies(
    tmp_path: Path, cluster: Any
) -> None:
    path, data = prepared(tmp_path, 8)
    said: list[str] = []

    def kill_once(stage: str) -> None:
        said.append(stage)
        if "solved on" in stage and sum("solved on" in one for one in said) == 2:
            os.kill(cluster.workers["solver-0"].pid, signal.SIGKILL)

    for at, passes in enumerate(SOLVES):
        alone, together = tmp_path / f"alone{at}", tmp_path / f"together{at}"
        for folder in (alone, together):
            folder.mkdir()
        optimize(path, data=data, passes=passes, output=alone / "o.onnx", fresh=True)
        optimize(
            path, data=data, passes=passes, output=together / "o.onnx", fresh=True,
            scheduler=cluster.scheduler_address, progress=kill_once,
        )  # fmt: skip
        assert plans(together) == plans(alone)
        # Six matrices and the table are solved in every one of these, and what workers needed is gone.
        assert sum("solved on" in one for one in said) >= 6 * (at + 1)
    assert {one.name for one in tmp_path.iterdir() if one.is_file()} == {"model.onnx", "data.npz"}


def test_a_search_has_its_places_solved_on_the_cluster(tmp_path: Path, cluster: Any) -> None:
    path, data = prepared(tmp_path, 8)
    said: list[str] = []
    optimize(
        path, data=data, size="0.5x", output=tmp_path / "o.onnx", fresh=True, scheduler=cluster.scheduler_address,
        progress=said.append,
    )  # fmt: skip
    assert any("solved on" in one for one in said)


def test_whoever_keeps_a_clock_solves_nothing(tmp_path: Path, cluster: Any) -> None:
    path, _ = prepared(tmp_path, 8)
    with joining.helped(path, cluster.scheduler_address, None, tmp_path / "o.onnx") as helpers:
        assert len(helpers.addresses) == 1
        assert len(helpers.client.scheduler_info(n_workers=-1)["workers"]) == 2


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            CancelledError(),
            "the scheduler went away before all layers were solved. Begin again: what is in the cache is taken over.",
        ),
        (
            KilledWorker("solved-1", None, 3),
            "4 workers that tried to solve one layer died. Give them more memory, or begin again without --scheduler.",
        ),
    ],
)
def test_a_cluster_that_fails_a_layer_is_told_in_one_line(tmp_path: Path, error: Exception, message: str) -> None:
    class Client:
        """Whose workers fail."""

        class scheduler:  # noqa: N801 - as Dask names it
            """Where it is."""

            address = "tcp://s"

        def submit(self, *_: Any, **__: Any) -> Any:
            """A future that has failed."""
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    helpers = Helpers(Client(), tmp_path, Lender(tmp_path, "lent"), ())
    with pytest.raises(OptionError) as caught:
        helpers.begin(str, "work")()
    assert str(caught.value) == f"tcp://s: {message}"


def test_workers_without_a_trial_solve_layers_for_those_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    path, data = prepared(tmp_path, 8)
    wishes = ("sparse-int8:linears=stored,sparsity=0.5",)
    monkeypatch.setattr(sweeping, "time_apart", by_the_table)
    sweep(path, data=data, recipe=wishes, output=tmp_path / "alone", fresh=True)
    monkeypatch.setenv(FOLDER_VARIABLE, str(shared))
    begun: dict[str, set[str]] = {}

    class Watch(SchedulerPlugin):  # type: ignore[misc]  # dask has no types
        """Remembers which worker was given what."""

        def transition(self, key: Any, start: str, finish: str, *_: Any, **more: Any) -> None:
            """A task changed its state."""
            del start
            if finish == "memory":
                begun.setdefault(str(key).partition("-")[0], set()).add(more["worker"])

    with joining.local(3, "cpu:1") as local:
        local.scheduler.add_plugin(Watch())
        sweep(
            path, data=data, recipe=wishes, output=tmp_path / "together", fresh=True, scheduler=local.scheduler_address
        )
    # Two trials, and one worker that has none.
    assert len(begun["solved"]) == 1
    assert begun["solved"].isdisjoint(begun["default"] | begun["recipe"])
    assert plans(tmp_path / "together") == plans(tmp_path / "alone")
