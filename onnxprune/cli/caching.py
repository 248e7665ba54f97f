"""`cache`: what earlier runs left on disk."""

from __future__ import annotations

import click

from onnxprune.cli.command import console
from onnxprune.cli.options import JSON


@click.command()
@click.option("--clear", is_flag=True, help="Remove everything.")
@JSON
def cache(clear: bool, as_json: bool) -> None:
    """Show what earlier runs left on disk, or clear it; ONNXPRUNE_CACHE names the folder."""
    from onnxprune.report.caching import cache_to_json, print_cache
    from onnxprune.report.json import dumps
    from onnxprune.store import open_store

    store = open_store()
    cleared = store.clear() if clear else None
    if as_json:
        click.echo(dumps(cache_to_json(store, cleared)))
    else:
        print_cache(store, cleared, console())
