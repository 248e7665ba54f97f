"""Hidden states that a cut model and its original share."""

from __future__ import annotations

from onnxprune.learn.matching import Pairing, match_blocks
from onnxprune.model import Model
from onnxprune.passes import RemoveBlocks, RemoveNeurons
from onnxprune.runtime import Feeds, open_session
from onnxprune.synthetic import probes
from tests import graphs
from tests.building import PROBES, Net
from tests.learn.test_module import model_of
from tests.test_removal import propose


def original() -> tuple[Model, list[Feeds]]:
    model = model_of(graphs.residual_blocks())
    return model, list(probes(model, open_session(model)))


def test_a_model_and_itself_share_the_streams_behind_all_blocks() -> None:
    model, feeds = original()
    # s0 and s1 are the sums of the graph's two blocks.
    assert match_blocks(model, model, feeds) == (Pairing("block.0", "s0", "s0"), Pairing("block.1", "s1", "s1"))


def test_inner_widths_may_differ() -> None:
    model, feeds = original()
    one = RemoveNeurons(keep=0.5, score="magnitude")
    cut, _ = one.apply(model, propose(one, model, feeds).edits)
    assert [pair.site for pair in match_blocks(model, cut, feeds)] == ["block.0", "block.1"]


def test_a_block_that_is_gone_has_no_pair_and_the_others_keep_theirs() -> None:
    model, feeds = original()
    one = RemoveBlocks(sites=("block.0",))
    cut, _ = one.apply(model, propose(one, model, feeds).edits)
    assert match_blocks(model, cut, feeds) == (Pairing("block.1", "s1", "s1"),)


def test_streams_of_other_shapes_are_no_pair() -> None:
    wide, narrow = (streams(width) for width in (24, 16))
    feeds: list[Feeds] = [wide.feeds(sizes) for sizes in PROBES]
    # The two read the same feeds and name their tensors alike, but the streams are of other widths.
    assert match_blocks(wide.model(), narrow.model(), feeds) == ()


def streams(width: int) -> Net:
    """A block on a stream of a width, between linears of and to 8 numbers."""
    net = Net(seed=1)
    x = net.linear(net.input("x", ["b", "s", 8]), 8, width)
    net.output(net.linear(net.op("Add", x, net.linear(net.op("Relu", net.linear(x, width, 12)), 12, width)), width, 8))
    return net


def test_features_of_images_are_their_channels() -> None:
    net = Net(seed=2)
    x = net.input("x", ["b", 4, 8, 8])
    kernel = net.constant(net.numbers.standard_normal((4, 4, 3, 3)).astype("float32"))
    net.output(net.op("Add", x, net.op("Relu", net.op("Conv", x, kernel, pads=[1] * 4))))
    feeds: list[Feeds] = [net.feeds(sizes) for sizes in PROBES]
    (pair,) = match_blocks(net.model(), net.model(), feeds)
    assert pair.features == 1
