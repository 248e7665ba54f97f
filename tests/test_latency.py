"""The clock times what it says it times, once, at the sizes of the timed input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from onnxprune.errors import Declined
from onnxprune.latency import Clock, Product, small_model
from onnxprune.model import load
from onnxprune.protocol import Level
from onnxprune.runtime import Feeds
from onnxprune.sites import find_sites
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.timing import Timed
from tests import graphs
from tests.search.working import timed

LEVELS = (
    Level(),
    Level(form="pair", rank=8),
    Level(form="int8"),
    Level(form="int8-pair", rank=8),
    Level(form="pair", rank=8, columns=200),
)
PRODUCTS = (
    Product("MatMul", (2, 5, 64), 64, 96),
    Product("MatMul", (5, 64), 64, 96, "float16"),
    Product("Conv", (2, 64, 6, 6), 64, 96, strides=(2, 2)),
)


class Counting:
    """A target that answers from a list and remembers what it was asked."""

    name = "counting"
    kind: Literal["measured", "forecast"] = "measured"
    threads = 1

    def __init__(self, *answers: tuple[float, ...]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, ...]] = []

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Check what is asked, and answer."""
        assert budget_s < 1
        assert all(path.is_file() for path in paths)
        assert feeds["x"].dtype == np.float32
        self.asked.append(tuple(path.stem for path in paths))
        return timed(paths, self.answers.pop(0))


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: f"{product.operator} {product.dtype}")
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: f"{level.form} {level.columns or ''}")
def test_every_form_is_a_model_that_gives_the_products_shape(product: Product, level: Level, tmp_path: Path) -> None:
    path = graphs.saved(small_model(product, level), tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    x = np.ones(product.shape, product.dtype)
    (y,) = graphs.outputs_of(path, {"x": x}, optimized=True).values()
    n = level.columns or product.columns
    assert y.shape == ((2, n, 3, 3) if product.operator == "Conv" else (*product.shape[:-1], n))
    assert y.dtype == x.dtype


def test_a_pair_holds_the_numbers_of_its_rank() -> None:
    proto = small_model(PRODUCTS[0], Level(form="pair", rank=8))
    # 64·8 + 8·96 = 1280
    assert sum(int(np.prod(tensor.dims)) for tensor in proto.graph.initializer) == 1280


def test_a_form_is_timed_once_and_beside_the_float_one() -> None:
    target = Counting((2.0, 1.0), (4.0, 1.0))
    clock = Clock(target)
    pair, int8 = Level(form="pair", rank=8), Level(form="int8")
    assert clock.time(PRODUCTS[0], pair) == 1.0
    # The float form was 2 ms when it was timed first; int8 is 4 times faster than it in its own run.
    assert clock.time(PRODUCTS[0], int8) == 0.5
    assert [clock.time(PRODUCTS[0], level) for level in (Level(), pair, int8)] == [2.0, 1.0, 0.5]
    assert target.asked == [("float", "pair"), ("float", "int8")]


def test_a_site_is_timed_at_the_sizes_of_the_timed_input_for_every_reader(tmp_path: Path) -> None:
    """The same weight three times on [7, 64]: one timing, counted three times."""
    model = load(graphs.saved(graphs.reused(3), tmp_path))
    target = Counting((1.5,))
    clock = Clock(target)
    latency = clock.of(model, {"x": np.ones((7, graphs.WIDTH), np.float32)})
    (site,) = (site for site in find_sites(model) if site.weight)
    assert latency(site, Level()) == 4.5
    assert list(clock.timed_ms) == [(Product("MatMul", (7, 64), 64, 64), Level())]


def test_a_transposed_weight_is_timed_as_its_product_reads_it(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.gemm(transB=1), tmp_path))
    clock = Clock(Counting((1.0,)))
    latency = clock.of(model, {"x": np.ones((7, graphs.WIDTH), np.float32)})
    (site,) = (site for site in find_sites(model) if site.weight == "w")
    latency(site, Level())
    assert list(clock.timed_ms) == [(Product("MatMul", (7, 64), 64, 48), Level())]


def test_what_is_no_product_is_declined(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.convolution(), tmp_path))
    latency = Clock(Counting()).of(model, {"x": np.ones((1, 16, 8, 8), np.float32)})
    site = next(site for site in find_sites(model) if site.weight)
    with pytest.raises(Declined, match=r"^c: only 1x1 convolutions are timed alone$"):
        latency(site, Level())
    model = load(graphs.saved(graphs.recurrent("GRU"), tmp_path))
    latency = Clock(Counting()).of(model, {"x": np.ones((3, 2, 16), np.float32)})
    site = next(site for site in find_sites(model) if site.weight)
    with pytest.raises(Declined, match=r"^linear\.0: no product of it can be timed alone$"):
        latency(site, Level())


@pytest.mark.serial
def test_a_thin_pair_is_measured_faster_than_a_wide_product() -> None:
    """At rank 8 of 1024 x 1024 a pair does a sixty-fourth of the work."""
    clock = Clock(CpuTarget())
    product = Product("MatMul", (1, 64, 1024), 1024, 1024)
    assert clock.time(product, Level(form="pair", rank=8)) < 0.5 * clock.time(product, Level())
