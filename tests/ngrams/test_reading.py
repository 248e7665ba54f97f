"""Back-off models are found by what graphs compute, whatever their form and names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.model import load
from onnxprune.ngrams.backoff import BackOff
from onnxprune.ngrams.reading import find_models
from tests.graphs import outputs_of
from tests.ngrams.making import language, trigram, windows

FORMS: dict[str, Callable[[BackOff], onnx.ModelProto]] = {
    "one input": trigram,
    "three inputs": lambda model: trigram(model, inputs="uvw"),
    "another radix": lambda model: trigram(model, base=1000),
    "a low sentinel": lambda model: trigram(model, sentinel=-99.0),
    "decimal logarithms": lambda model: trigram(model, log10=True, sentinel=-500.0),
    "converted": lambda model: trigram(model, log10=True, sentinel=-500.0, unit=float(np.log(10))),
    "tensors": lambda model: trigram(model, tensors=True),
    "probabilities": lambda model: trigram(model, linear=True, sentinel=-1.0),
}


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with names that say nothing."""
    ports = {one.name for one in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {}
    for held in [model.graph.initializer, *(node.output for node in model.graph.node)]:
        for one in held:
            name = one if isinstance(one, str) else one.name
            names[name] = name if name in ports else f"t{len(names)}"
    for constant in model.graph.initializer:
        constant.name = names[constant.name]
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    return model


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_read_as_it_computes(form: str, tmp_path: Path) -> None:
    model = language().model
    path = tmp_path / "model.onnx"
    onnx.save(anonymous(FORMS[form](model)), path)
    sites, why = find_models(load(path).graph)
    assert not why
    ((found,),) = [site.found for site in sites]
    assert [len(grams) for grams in found.model.grams] == [len(grams) for grams in model.grams]
    rows = windows()
    chain = sites[0].joint.chain
    log_p = found.model.log_p(dict(zip(reversed(chain), rows.T, strict=True)))
    feeds = {"ids": rows} if form != "three inputs" else dict(zip("uvw", rows.T, strict=True))
    ((_, out),) = outputs_of(path, feeds).items()
    if form == "converted":
        # What is behind the last table is another node's business.
        out = out / np.log(10)
    came = np.exp(log_p) if found.scale == 0 else found.scale * log_p
    assert out == pytest.approx(came, abs=1e-5)


def test_what_does_not_sum_to_one_is_left_alone_with_the_sum(tmp_path: Path) -> None:
    made = trigram(language().model)
    for node in made.graph.node:
        if node.output[0] == "a1":
            values = next(one for one in node.attribute if one.name == "values_floats")
            values.floats[:] = [value + 0.5 for value in values.floats]
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    sites, why = find_models(load(path).graph)
    assert not sites
    assert why["p2"].startswith("every history must sum to one, one of 1 words sums to 1.")


def test_tables_that_are_combined_otherwise_are_no_model(tmp_path: Path) -> None:
    """Back off without the alpha of the longest history."""
    made = trigram(language().model)
    add = next(node for node in made.graph.node if node.output[0] == "b2")
    add.input[0] = "a1"
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    sites, why = find_models(load(path).graph)
    # What is within is a whole bigram model.
    assert [len(site.found[0].grams) for site in sites] == [2]
    assert why == dict.fromkeys(("p3", "a2"), "the graph does not combine it with others as a back-off model does")
