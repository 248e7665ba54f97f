"""What every command has: how errors end, where text goes."""

from __future__ import annotations

import errno
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from onnxprune.errors import OnnxPruneError

_PIPE_WIDTH = 140
_QUIET = "onnxprune.quiet"
# As shells number them: 128 and the signal.
_INTERRUPTED, _ENDED = 130, 143
# Not what is asked for is at fault, but where temporary files go.
_FULL = {errno.EDQUOT, errno.ENOSPC, errno.EROFS}
# No file can have such a name.
_NO_NAMES = {errno.ELOOP, errno.ENAMETOOLONG}


class Ended(BaseException):
    """The process was told to end; everything that is open cleans up behind itself."""


def _end(*_: object) -> None:
    raise Ended


@contextmanager
def _told_to_end() -> Iterator[None]:
    """What is told to end cleans up first: its temporary files would outlive it otherwise."""
    if threading.current_thread() is not threading.main_thread():
        # No other thread is told.
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Group(click.Group):
    """Errors of the user's input end in one line and exit code 2, never in a traceback; every command can be quiet."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command and what all have in common."""
        cmd.params.append(
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_be_quiet,
                help="Say nothing but errors, and JSON where it is asked for.",
            )
        )
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        """A command's answer, or its exit code."""
        try:
            with _told_to_end():
                return super().invoke(ctx)
        except OnnxPruneError as error:
            click.echo(f"onnxprune: {error}", err=True)
            ctx.exit(2)
        except click.UsageError as error:
            within = f" {error.ctx.info_name}" if error.ctx is not None and error.ctx is not ctx else ""
            # A message may list what it knows in lines of their own, and need not end as a sentence does.
            told = " ".join(error.format_message().split())
            told += "" if told.endswith((".", "?", "!")) else "."
            start = f"{within.lstrip()}: " if within else ""
            click.echo(f"onnxprune: {start}{told} See onnxprune{within} --help.", err=True)
            ctx.exit(2)
        except (KeyboardInterrupt, Ended) as error:
            click.echo("onnxprune: interrupted; nothing half-written is left.", err=True)
            ctx.exit(_ENDED if isinstance(error, Ended) else _INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has gone, as `head` does; there is nobody left to tell.
            sys.stderr.close()
            ctx.exit(0)
        except OSError as error:
            if error.errno in _NO_NAMES and error.filename:
                click.echo(f"onnxprune: {error.filename}: {error.strerror}. Name another file.", err=True)
                ctx.exit(2)
            if error.errno not in _FULL:
                raise
            place = error.filename or tempfile.gettempdir()
            told = f"{place}: cannot be written: {error.strerror}. Make room there, or set TMPDIR to another folder."
            click.echo(f"onnxprune: {told}", err=True)
            ctx.exit(2)


def _be_quiet(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    context.meta[_QUIET] = wanted


def is_quiet() -> bool:
    """Whether the command at work was told to say nothing."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def say(text: str) -> None:
    """A result of one line."""
    if not is_quiet():
        click.echo(text)


def quietly(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command without onnxruntime's warnings: they are about graphs that we judge ourselves."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        return command(*args, **kwargs)

    return run


def console() -> Any:
    """Where results are printed; a pipe or a file has no width of its own, and tables must not be cut there."""
    from rich.console import Console

    # Names that users chose are printed as they are, with their brackets and colons.
    plain: Any = {"highlight": False, "markup": False, "emoji": False, "quiet": is_quiet()}
    found = Console(**plain)
    return found if found.is_terminal else Console(**plain, width=_PIPE_WIDTH)


def progress_of(*, quiet: bool) -> Any:
    """A context whose value is told each stage, shown on stderr."""
    from onnxprune.report.progress import stages

    return stages(quiet=quiet or is_quiet())


def page_possible(path: Path | None, *others: Path | None) -> None:
    """Refuse an --html that could not be written in the end, or that would take the place of another file of the job.

    Raises:
        OnnxPruneError: its folder is missing, or the packages that draw it are; or it is one of `others`.
    """
    from onnxprune.errors import OutputError
    from onnxprune.report.page.document import check_extra

    if path is None:
        return
    check_extra()
    if not path.parent.is_dir() or path.is_dir():
        raise OutputError(f"{path}: cannot be written: no such folder, or a folder itself. Name a file with --html.")
    for other in others:
        if other is not None and path.resolve() == other.resolve():
            raise OutputError(f"{path}: is a model of this job. Choose another place with --html.")
