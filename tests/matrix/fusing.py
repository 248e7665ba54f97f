"""The same exports after other people's fusions: onnxruntime's transformer optimizer and onnxscript's rewriter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx

from tests.matrix.exporting import cache_folder, exported

# The optimizer's name of each family.
FAMILIES = {"bert": "bert", "gpt2": "gpt2", "vit": "vit", "llama": "gpt2", "distilbert": "bert", "t5-encoder": "t5"}


def by_onnxruntime(source: Path, target: Path, family: str) -> None:
    """`onnxruntime.transformers.optimizer` with its own fusions alone, heads found by itself."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(family)
    model = optimizer.optimize_model(
        str(source), model_type=family, num_heads=8, hidden_size=64, optimization_options=options, opt_level=0
    )
    model.save_model_to_file(str(target))


def by_onnxscript(source: Path, target: Path, family: str) -> None:
    """The fusions of onnxscript for onnxruntime."""
    from onnxscript import ir
    from onnxscript.rewriter import ort_fusions

    del family
    model = ir.load(str(source))
    fused = ort_fusions.optimize_for_ort(model)
    ir.save(fused[0] if isinstance(fused, tuple) else fused, str(target))


FUSERS: dict[str, Callable[[Path, Path, str], None]] = {"onnxruntime": by_onnxruntime, "onnxscript": by_onnxscript}


def fused(name: str, exporter: str, attention: str, fuser: str) -> Path:
    """A fused file, made once."""
    source = exported(name, exporter, attention)
    target = cache_folder() / f"{source.stem}-{fuser}.onnx"
    if not target.exists():
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            try:
                FUSERS[fuser](source, target, FAMILIES.get(name, "bert"))
            finally:
                logging.disable(logging.NOTSET)
    return target


def fused_operators(path: Path) -> Counter[str]:
    """Operators of com.microsoft in a file."""
    return Counter(
        node.op_type for node in onnx.load(path, load_external_data=False).graph.node if node.domain == "com.microsoft"
    )
