"""What every target offers, and the texts that name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from onnxprune.errors import OptionError
from onnxprune.runtime import Feeds
from onnxprune.targets import environments
from onnxprune.targets.adapting import Limits
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.environments import Missing
from onnxprune.targets.forecast import COREML, NNAPI, ForecastTarget
from onnxprune.targets.hosted import HostedTarget
from onnxprune.targets.placement import CPU, XNNPACK, Placement
from onnxprune.targets.provider import provider_target
from onnxprune.targets.runtime_target import EITHER, SIGNED, Providers
from onnxprune.targets.timing import Timed

MAX_THREADS = 1024
_XNNPACK: Providers = ((XNNPACK, {"intra_op_num_threads": "1"}), (CPU, {}))
# XNNPACK has threads of its own, which onnxruntime's would fight for the processor.
_NO_SPINNING = {"config": {"session.intra_op.allow_spinning": "0"}}
_DEBIAN = Limits(runtime="onnxruntime 1.21", ir=10, opset=22, biased=True)
_WEB_XNNPACK = Limits(runtime="onnxruntime-web 1.16.3", ir=9, opset=19, external=False)


class Timer(Protocol):
    """What can be asked for figures of models."""

    @property
    def name(self) -> str:
        """As the user writes it, e.g. `cpu:1`."""

    @property
    def threads(self) -> int:
        """Threads of one operator."""

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Each model's figures on one call's feeds; the first is the one others are compared with."""


class Target(Timer, Protocol):
    """A runtime with an execution provider and threads, which can run a model and say what it costs."""

    @property
    def about(self) -> str:
        """One line for `onnxprune targets`."""

    @property
    def latency(self) -> Literal["wall", "instructions", "none"]:
        """What its figures are: milliseconds of this machine's clock, counted instructions, or none at all."""

    @property
    def signs(self) -> tuple[str, ...]:
        """Types of static activations and weights that are worth a try on its kernels, the likeliest first."""

    def probe(self) -> Missing | None:
        """Why it cannot be used here and what sets it up; None where it can."""

    def run(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Mapping[str, np.ndarray[Any, Any]], ...]:
        """Each model's outputs on one call's feeds, by name."""

    def place(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Placement, ...]:
        """Which node of each model runs where."""


_HOSTED: Mapping[str, Target] = {
    target.name: target
    for target in (
        HostedTarget(
            title="xnnpack",
            about="the XNNPACK provider of Debian's onnxruntime 1.21, on this machine's processor",
            process=environments.xnnpack,
            missing=partial(environments.missing, "xnnpack"),
            reported=XNNPACK,
            # Its convolutions take signed or unsigned, never one of each.
            signs=SIGNED,
            providers=_XNNPACK,
            limits=_DEBIAN,
            options=_NO_SPINNING,
        ),
        HostedTarget(
            title="arm64",
            about="onnxruntime 1.31 on an emulated ARM processor: outputs and executed instructions, no milliseconds",
            process=partial(environments.arm64, debian=False),
            missing=partial(environments.missing, "arm64"),
            figures="instructions",
            signs=SIGNED,
            options=_NO_SPINNING,
        ),
        HostedTarget(
            title="arm64-xnnpack",
            about="the XNNPACK provider of onnxruntime 1.21 on an emulated ARM processor, counted likewise",
            process=partial(environments.arm64, debian=True),
            missing=partial(environments.missing, "arm64"),
            figures="instructions",
            reported=XNNPACK,
            signs=SIGNED,
            providers=_XNNPACK,
            limits=_DEBIAN,
            options=_NO_SPINNING,
        ),
        HostedTarget(
            title="web",
            about="onnxruntime-web 1.30, WebAssembly, one thread, in Node",
            process=partial(environments.web, "web"),
            missing=partial(environments.missing_web, "web"),
            signs=EITHER,
            providers=(("wasm", {}),),
            limits=Limits(runtime="onnxruntime-web 1.30", ir=13, opset=26),
        ),
        HostedTarget(
            title="xnnpack-web",
            about="the XNNPACK provider of onnxruntime-web 1.16.3, WebAssembly, one thread, in Node",
            process=partial(environments.web, "xnnpack-web"),
            missing=partial(environments.missing_web, "xnnpack-web"),
            reported=XNNPACK,
            signs=SIGNED,
            providers=(("xnnpack", {}),),
            limits=_WEB_XNNPACK,
        ),
    )
}
_KNOWN: Mapping[str, Callable[[], Target]] = {
    CpuTarget.known: CpuTarget,
    "cpu-mobile": lambda: CpuTarget(mobile=True),
    **{name: (lambda target=target: target) for name, target in _HOSTED.items()},  # type: ignore[misc]
    "nnapi": lambda: ForecastTarget(NNAPI),
    "coreml": lambda: ForecastTarget(COREML),
}
_PROVIDER = "provider:NAME"


def known_targets() -> tuple[Target, ...]:
    """Every target by itself; other providers of the installed onnxruntime are named `provider:NAME`."""
    return tuple(make() for make in _KNOWN.values())


def describe(target: Target) -> dict[str, str | bool]:
    """A target as `onnxprune targets --json` prints it; `reason` and `command` are empty where it is ready."""
    missing = target.probe()
    return {
        "target": target.name,
        "about": target.about,
        "latency": target.latency,
        "ready": missing is None,
        "reason": "" if missing is None else missing.reason,
        "command": "" if missing is None else missing.command,
    }


def parse_target(text: str) -> Target:
    """The target named by `cpu` (one thread), `cpu:THREADS`, `provider:NAME`, or by itself.

    Raises:
        OptionError: no such target, or threads out of range.
    """
    family, colon, rest = text.partition(":")
    if family == "provider" and colon:
        return provider_target(rest)
    if family == "cpu":
        if not colon:
            return CpuTarget()
        if not (rest.isascii() and rest.isdigit() and 1 <= int(rest) <= MAX_THREADS):
            raise OptionError(f"Target {text!r}: threads must be a number from 1 to {MAX_THREADS}, got {rest!r}.")
        return CpuTarget(int(rest))
    if text not in _KNOWN:
        raise OptionError(f"No target named {text!r}. Known: {', '.join(sorted([*_KNOWN, _PROVIDER]))}.")
    return _KNOWN[text]()
