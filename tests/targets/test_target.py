"""Texts that name targets, and what each says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.errors import OptionError, TargetError
from onnxprune.measurement import parse_targets
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.target import describe, known_targets, parse_target

KNOWN = "arm64, arm64-xnnpack, coreml, cpu-mobile, cpu[:THREADS], nnapi, provider:NAME, web, xnnpack, xnnpack-web"


@pytest.mark.parametrize(("text", "threads"), [("cpu", 1), ("cpu:1", 1), ("cpu:12", 12)])
def test_a_processor_is_named_with_its_threads(text: str, threads: int) -> None:
    target = parse_target(text)
    assert target == CpuTarget(threads)
    assert target.name == f"cpu:{threads}"
    assert target.latency == "wall"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", f"No target named 'gpu'. Known: {KNOWN}."),
        ("cpu:0", "Target 'cpu:0': threads must be a number from 1 to 1024, got '0'."),
        ("cpu:", "Target 'cpu:': threads must be a number from 1 to 1024, got ''."),
        ("cpu:-1", "Target 'cpu:-1': threads must be a number from 1 to 1024, got '-1'."),
        ("cpu:²", "Target 'cpu:²': threads must be a number from 1 to 1024, got '²'."),
        ("cpu:4096", "Target 'cpu:4096': threads must be a number from 1 to 1024, got '4096'."),
    ],
)
def test_a_wrong_name_is_told_with_what_there_is(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_target(text)
    assert str(caught.value) == message


def test_every_target_says_what_its_figures_are() -> None:
    kinds = {target.name: target.latency for target in known_targets()}
    assert kinds == {
        "cpu:1": "wall",
        "cpu-mobile": "wall",
        "xnnpack": "wall",
        "arm64": "instructions",
        "arm64-xnnpack": "instructions",
        "web": "wall",
        "xnnpack-web": "wall",
        "nnapi": "none",
        "coreml": "none",
    }
    assert all(parse_target(name).name == name for name in kinds)


@pytest.mark.parametrize("name", ["xnnpack", "arm64", "arm64-xnnpack", "web", "xnnpack-web"])
def test_a_missing_target_tells_the_command_that_sets_it_up(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPRUNE_TARGETS", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda program: f"/bin/{program}")
    environment = "arm64" if name == "arm64-xnnpack" else name
    told = describe(parse_target(name))
    assert told["ready"] is False
    assert told["reason"] == f"not set up: {tmp_path / environment} is missing or unfinished"
    assert told["command"] == f"bash benchmarks/targets/{environment}.sh"
    assert (Path(__file__).parents[2] / f"benchmarks/targets/{environment}.sh").is_file()
    with pytest.raises(TargetError) as caught:
        parse_targets(["cpu", name])
    assert str(caught.value) == (f"Target {name} cannot be used: {told['reason']}; {told['command']} sets it up.")


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "is damaged"), ('{"setup": 99}', "was set up by another version of its script")]
)
def test_an_environment_that_is_not_whole_is_missing(
    content: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPRUNE_TARGETS", str(tmp_path))
    (tmp_path / "xnnpack").mkdir()
    (tmp_path / "xnnpack" / "ready.json").write_text(content)
    assert str(describe(parse_target("xnnpack"))["reason"]).endswith(reason)


def test_a_provider_that_was_not_built_in_is_missing() -> None:
    told = describe(parse_target("provider:xnnpack"))
    assert told["target"] == "provider:xnnpack"
    assert "is built without xnnpackExecutionProvider; it has" in str(told["reason"])
    assert "CPUExecutionProvider" in str(told["reason"])


def test_targets_are_named_once() -> None:
    with pytest.raises(OptionError, match=r"^Target cpu:1 is named twice\.$"):
        parse_targets(["cpu", "cpu:1"])
    with pytest.raises(OptionError, match=r"^At least one target must be named, for example cpu:1\.$"):
        parse_targets([])
