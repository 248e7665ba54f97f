"""Commands as a user types them, run in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from onnxprune.cli import main


def run(*arguments: str) -> Result:
    """A command's result; its exceptions are bugs."""
    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
