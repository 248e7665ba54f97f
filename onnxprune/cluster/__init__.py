"""Trials of a sweep on the workers of a Dask cluster; clocks only where a worker carries the target's tag.

Workers read the model and the samples from storage that all share, and write what they make into a folder beside the
plans. A worker whose resources name the target (`--resources "cpu:1=1"`) keeps the clock: others send it the models to
be timed. Trials go to workers without the tag, so that nothing disturbs a clock; where every worker carries it, each
does trials and times its own. Results are fetched as they come: a worker that dies takes nothing with it but the trial
at hand, which Dask gives to another, and that one takes up the stages that are in a shared cache.
"""

from onnxprune.cluster.joining import LOCAL, joined, refuse_workers_alone, shared_out

__all__ = ["LOCAL", "joined", "refuse_workers_alone", "shared_out"]
