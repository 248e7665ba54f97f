"""The page about a run: one file, nothing fetched, the verdict first, everything named in words too."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxprune import pipeline
from onnxprune.cli import main
from onnxprune.report.page import document
from onnxprune.report.page.document import LIMIT_BYTES, Page, Picture, Section, Table, render
from onnxprune.report.page.pictures import course, front, pairs, shares
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
    ],
)
def test_every_command_writes_its_page(tmp_path: Path, arguments: list[str], said: list[str]) -> None:
    graphs.saved(graphs.attention(), tmp_path)
    result = CliRunner().invoke(main, [*arguments, "--html", "page.html"])
    assert result.exit_code == 0, result.output
    text = " ".join(read(Path("page.html")).text)
    for words in said:
        assert words in text


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
    # 30 cells take two rows of at most 24.
    assert "heads: 6 of 8, 8 of 8" in shares({"heads": [(6, 8), (8, 8)], "neurons": [(1, 2)] * 30}).words
    assert pairs({"MatMul": (2.0, 0.5)}, "ms").words == "MatMul: 2 ms before, 0.5 after"
    assert course([("a", 0.1), ("b", 0.25)], "error").words == "a: 0.1; b: 0.25"
    assert front([(2.0, 0.9, "p")], "times as fast", "fidelity").words == "p: 2 times as fast, 0.9 fidelity"


def test_the_same_picture_has_the_same_bytes() -> None:
    assert shares({"heads": [(6, 8)]}) == shares({"heads": [(6, 8)]})
    assert "#0102" not in shares({"heads": [(6, 8)]}).svg
