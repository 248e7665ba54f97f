"""The command line: parse, call the library, print. One module a group of commands."""

from __future__ import annotations

import click

from onnxprune.cli import blaming, caching, checking, compressing, judging, learning, listing, sweeping
from onnxprune.cli.command import Group

# Every command; nothing registers itself on import.
COMMANDS = (
    compressing.optimize,
    compressing.apply,
    compressing.deploy,
    compressing.unpack,
    learning.recover,
    learning.train,
    learning.mask,
    judging.validate,
    judging.time,
    blaming.blame,
    sweeping.sweep,
    checking.check,
    listing.inspect,
    listing.passes,
    listing.methods,
    listing.targets,
    caching.cache,
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnxprune")
def main() -> None:
    """Make exported ONNX models smaller and faster, with proof."""


for command in COMMANDS:
    main.add_command(command)
