"""Code that the user names as `package.module:function`; the current folder can be imported from."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxPruneError

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_function(spec: str) -> bool:
    """Whether a text has the form `package.module:function`."""
    return _FUNCTION.fullmatch(spec) is not None


@contextmanager
def running(spec: str, error: type[OnnxPruneError], remedy: str) -> Iterator[Callable[..., Any]]:
    """The user's function, while its folder can be imported from; whatever it raises is told in one line.

    Raises:
        OnnxPruneError: of the type `error`: no such module or function, or the code within the block failed.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield _function(spec, error)
    except OnnxPruneError:
        raise
    except Exception as raised:
        reason = " ".join(str(raised).split())
        raise error(f"{spec}: it raised {type(raised).__name__}: {reason}. {remedy}") from raised
    finally:
        sys.path.remove(folder)


def _function(spec: str, error: type[OnnxPruneError]) -> Callable[..., Any]:
    module_name, _, name = spec.partition(":")
    module = importlib.import_module(module_name)
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        own = (key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name)
        listed = ", ".join(sorted(own)) or "none"
        raise error(f"{spec}: {module_name} has no function {name!r}. It has: {listed}.")
    return function
