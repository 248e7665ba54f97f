"""Any other provider of the installed onnxruntime, by name: `provider:OpenVINOExecutionProvider`, `provider:CUDA`."""

from __future__ import annotations

import onnxruntime as ort

from onnxprune.errors import OptionError
from onnxprune.targets import environments
from onnxprune.targets.environments import Missing
from onnxprune.targets.hosted import HostedTarget
from onnxprune.targets.placement import CPU
from onnxprune.targets.runtime_target import EVERY, ON_CPU

_SUFFIX = "ExecutionProvider"


def provider_target(name: str) -> HostedTarget:
    """A provider of this onnxruntime in a process of its own, in front of the CPU provider.

    Args:
        name: as onnxruntime calls it, with or without `ExecutionProvider`.

    Raises:
        OptionError: no name.
    """
    if not name.removesuffix(_SUFFIX):
        raise OptionError(f"Target 'provider:{name}': a provider must be named. Here: {', '.join(_available())}.")
    full = name.removesuffix(_SUFFIX) + _SUFFIX
    known = {one.casefold(): one for one in _available()}
    full = known.get(full.casefold(), full)

    def missing() -> Missing | None:
        # What was compiled in, not what onnxruntime has heard of (`get_all_providers`).
        if full in _available():
            return None
        return Missing(f"onnxruntime {ort.__version__} here is built without {full}; it has {', '.join(_available())}")

    return HostedTarget(
        title=f"provider:{full.removesuffix(_SUFFIX)}",
        about=f"{full} of the installed onnxruntime",
        reported=full,
        signs=EVERY,
        process=environments.own,
        missing=missing,
        providers=ON_CPU if full == CPU else ((full, {}), *ON_CPU),
    )


def _available() -> list[str]:
    return sorted(ort.get_available_providers())
