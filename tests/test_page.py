"""The page about a run: one file, nothing fetched, the verdict first, everything named in words too."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune import inspect, optimize, pipeline
from onnxprune.cli import main
from onnxprune.measurement import not_measured
from onnxprune.report.page import document, result_page
from onnxprune.report.page.document import LIMIT_BYTES, Page, Picture, Section, Table, render
from onnxprune.report.page.pictures import course, front, pairs, shares
from onnxprune.report.page.sites import site_map
from onnxprune.targets.target import parse_target
from tests import graphs

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Tags in order, balanced, with their attributes; and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An opened tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag that closes itself."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """A closed tag."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text.append(data)


def read(path: Path) -> Reader:
    """A page, sound and alone: balanced tags, no script, no address to fetch from."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= LIMIT_BYTES
    reader = Reader(text)
    assert not reader.open
    assert "script" not in {tag for tag, _ in reader.tags}
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "action", "data"}:
                assert value is not None
                assert value.startswith(("#", "data:,")), value
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    return reader


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.setattr("onnxprune.trials.TIMING_S", 0.02)
    monkeypatch.setattr("onnxprune.subject.RACE_S", 0.01)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["optimize", "model.onnx", "-o", "small.onnx"],
            ["the speed", "Synthetic inputs", "Where the time goes", "apply"],
        ),
        (["validate", "model.onnx", "model.onnx"], ["Fidelity 1.0000 reaches 0.95."]),
        (["time", "model.onnx", "model.onnx", "--seconds", "0.02"], ["as fast as model.onnx on cpu:1", "median ms"]),
        (["inspect", "model.onnx"], ["parameters", "Inputs and outputs"]),
        (
            ["sweep", "model.onnx", "--data", "data.npz", "--recipe", "sparse-int8:sparsity=0.5 pack-weights"],
            [
                "worth choosing from",
                "The front",
                "original",
                "Site by site: ",
                "Where the time goes: ",
                "sweep",
                "apply",
            ],
        ),
    ],
)
def test_every_command_writes_its_page(tmp_path: Path, arguments: list[str], said: list[str]) -> None:
    path = graphs.saved(graphs.attention(), tmp_path)
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(8)]
    np.savez("data.npz", **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})  # type: ignore[arg-type]
    result = CliRunner().invoke(main, [*arguments, "--html", "page.html"])
    assert result.exit_code == 0, result.output
    text = " ".join(read(Path("page.html")).text)
    for words in said:
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimize", "model.onnx", "-o", "small.onnx"], ["Not timed", "Site by site", "Where fidelity is lost"]),
        (["validate", "model.onnx", "model.onnx"], ["Fidelity 1.0000 reaches 0.95.", "Where fidelity is lost"]),
        (["inspect", "model.onnx"], ["parameters", "Inputs and outputs"]),
    ],
)
def test_where_memory_is_short_pages_are_written_without_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: list[str]
) -> None:
    # The smallest limit is large for a small model: then every model counts as too large.
    monkeypatch.setattr("onnxprune.memory.JOB_COPIES", 1 << 30)
    graphs.saved(graphs.layers(2), tmp_path)
    result = CliRunner().invoke(main, [*arguments, "--max-memory", "64MiB", "--html", "page.html"])
    assert result.exit_code == 0, result.output
    text = " ".join(read(Path("page.html")).text)
    for words in said:
        assert words in text
    assert "Where the time goes" not in text


def mapped(path: Path, *passes: str) -> tuple[str, list[dict[str, str]]]:
    """The words of the map's picture and the rows of its table, of a model that passes have made."""
    result = optimize(path, output="small.onnx", passes=passes, allow_synthetic=True, fidelity="off")
    section = site_map(inspect(path), inspect(result.output))
    assert section is not None
    (table,) = [part for part in section.parts if isinstance(part, Table)]
    words = "; ".join(part.words for part in section.parts if isinstance(part, Picture))
    return words, [dict(zip(table.head, row, strict=True)) for row in table.rows]


def test_the_map_tells_units_zeros_and_bits_of_every_site(tmp_path: Path) -> None:
    path = graphs.saved(graphs.layers(1), tmp_path)
    words, rows = mapped(path, "remove-heads:keep=2,score=magnitude", "sparse-int8:sparsity=0.5")
    assert "heads: 2 of 4; neurons: 96 of 96; bits: " in words
    assert {row["site"] for row in rows} == {site.id for site in inspect(path).sites if site.kind != "block"}
    assert next(row["units"] for row in rows if row["site"] == "heads.0") == "2 of 4"
    # 64 x 32 numbers of a byte each behind the cut, half of them zeros.
    linears = [row for row in rows if row["stored as"] == "int8, dense"]
    assert linears
    assert {row["bits a number"] for row in linears} == {"8"}
    assert {row["zeros"] for row in linears} == {"50%"}


def test_the_map_tells_ranks(tmp_path: Path) -> None:
    path = graphs.saved(graphs.layers(1), tmp_path)
    words, rows = mapped(path, "factor-linear:method=svd,rank=3,faster=no")
    assert "rank: 3 of 64, " in words
    assert {"3 of 64"} <= {row["rank"] for row in rows}


def test_a_page_of_what_could_not_be_timed_shows_no_time(tmp_path: Path) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    result = optimize(path, output="small.onnx")
    untimed = replace(result, measurements=(not_measured(parse_target("cpu:1"), "no room"),))
    page = result_page(untimed, None, ["onnxprune"])
    assert page.verdict.startswith("Not timed, 0.2")
    assert [name for name, *_ in page.figures] == ["file", "gzip -1", "parameters", "multiply-accumulates a run"]
    assert "Where the time goes" not in {section.title for section in page.sections}
    assert "Where the time goes" in {section.title for section in result_page(result, None, ["onnxprune"]).sections}
    counted = [replace(one, instructions=2e6) for one in result.measurements[0].models]
    measured = replace(result.measurements[0], latency="instructions", models=tuple(counted))
    rows = result_page(replace(result, measurements=(measured,)), None, ["onnxprune"]).figures
    assert rows[-1][:3] == ("a run on cpu:1", "2.0 M instructions", "2.0 M instructions")


def test_a_removed_block_is_said_to_be_removed(tmp_path: Path) -> None:
    path = graphs.saved(graphs.layers(2), tmp_path)
    result = optimize(path, output="small.onnx", passes=["remove-blocks:keep=0.75,score=magnitude"], fidelity="off")
    section = site_map(inspect(path), inspect(result.output))
    assert section is not None
    (table,) = [part for part in section.parts if isinstance(part, Table)]
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [row["remark"] for row in rows if row["site"].startswith("block")] == ["removed"]
    assert "gone with its block" in {row["remark"] for row in rows}


def test_a_page_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.saved(graphs.feed_forward(), tmp_path)
    result = CliRunner().invoke(main, ["optimize", "model.onnx", "--html", "nowhere/page.html"])
    refused = "nowhere/page.html: cannot be written: no such folder, or a folder itself. Name a file with --html."
    assert (result.exit_code, result.stderr) == (2, f"onnxprune: {refused}\n")
    monkeypatch.setattr(document, "find_spec", lambda _: None)
    result = CliRunner().invoke(main, ["optimize", "model.onnx", "--html", "page.html"])
    assert (result.exit_code, result.stderr) == (
        2,
        "onnxprune: --html needs jinja2 and matplotlib. Install them with: pip install 'onnxprune[report]'.\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    page = Page(
        title=hostile,
        verdict=hostile,
        sections=[
            Section(title=hostile, parts=[Table(head=(hostile,), rows=[[hostile]]), pairs({hostile: (1, 2)}, "ms")])
        ],
    )
    (tmp_path / "page.html").write_text(render(page), encoding="utf-8")
    assert " ".join(read(tmp_path / "page.html").text).count(hostile) >= 5


def test_pictures_that_would_weigh_too_much_are_left_out_and_said() -> None:
    heavy = Picture("<svg>" + "x" * LIMIT_BYTES + "</svg>", "heavy")
    text = render(Page(title="t", verdict="v", sections=[Section(title="s", text="words", parts=[heavy])]))
    assert len(text) < 20_000
    assert "words (pictures left out: the page would be too large)" in text


def test_pictures_say_in_words_what_they_show() -> None:
    # 30 cells take three rows of at most 12.
    assert "heads: 6 of 8, 8 of 8" in shares({"heads": [(6, 8), (8, 8)], "neurons": [(1, 2)] * 30}).words
    assert pairs({"MatMul": (2.0, 0.5)}, "ms").words == "MatMul: 2 ms before, 0.5 after"
    assert course([("a", 0.1), ("b", 0.25)], "error").words == "a: 0.1; b: 0.25"
    assert front([(2.0, 0.9, "p")], "times as fast", "fidelity").words == "p: 2 times as fast, 0.9 fidelity"


def test_the_same_picture_has_the_same_bytes() -> None:
    assert shares({"heads": [(6, 8)]}) == shares({"heads": [(6, 8)]})
    assert "#0102" not in shares({"heads": [(6, 8)]}).svg


def test_names_read_from_the_left_and_figures_from_the_right() -> None:
    rows = [["linear.0", "0.0.weight", "10.8 kB", "5 of 128", "1.20 [1.20, 1.21]", "nan"]]
    assert Table(head=["x"] * 6, rows=rows).words == {0, 1}
