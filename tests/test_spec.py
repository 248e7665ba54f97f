"""A pass and its text form are the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import spec
from onnxprune.errors import OptionError
from onnxprune.passes import known


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A pass with an option of every kind."""

    name: ClassVar[str] = "sample"
    keep: int | float = 1.0
    count: int = 3
    share: float = 0.5
    gentle: bool = True
    score: Literal["obs", "magnitude", "4"] = "obs"
    limit: int | None = None
    axes: tuple[int, ...] = ()
    label: str = "plain"


PASSES: dict[str, type[Any]] = {"sample": Sample, "other": Sample}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sample", Sample()),
        ("sample:", Sample()),
        ("sample:keep=8", Sample(keep=8)),
        ("sample:keep=0.75", Sample(keep=0.75)),
        ("sample:keep=1.0", Sample(keep=1.0)),
        ("sample:gentle=no,score=magnitude", Sample(gentle=False, score="magnitude")),
        ("sample:gentle=true", Sample(gentle=True)),
        ("sample:limit=none,axes=1+2", Sample(axes=(1, 2))),
        ("sample:limit=7", Sample(limit=7)),
        ("sample:label=a=b", Sample(label="a=b")),
        ("sample:share=1e-3", Sample(share=0.001)),
    ],
)
def test_text_becomes_the_pass_it_names(text: str, expected: Sample) -> None:
    parsed = spec.parse(text, PASSES)
    assert parsed == expected
    # A count and a share are different goals, equal as their numbers may be.
    assert type(parsed.keep) is type(expected.keep)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune", "No pass named 'prune'. Known: other, sample."),
        ("", "No pass named ''. Known: other, sample."),
        (
            "sample:size=3",
            "sample: no option named 'size'. Known: axes, count, gentle, keep, label, limit, score, share.",
        ),
        ("sample:keep", "sample: options read name=value, got 'keep'."),
        ("sample:count=3,count=4", "sample: option 'count' is given twice. Give it once."),
        ("sample:count=3.5", "sample: count must be a whole number, got '3.5'."),
        ("sample:share=half", "sample: share must be a number, got 'half'."),
        ("sample:keep=half", "sample: keep must be a whole number or a number, got 'half'."),
        ("sample:gentle=maybe", "sample: gentle must be yes or no, got 'maybe'."),
        ("sample:score=best", "sample: score must be one of obs, magnitude, 4, got 'best'."),
        ("sample:limit=some", "sample: limit must be a whole number or none, got 'some'."),
    ],
)
def test_a_wrong_spec_is_one_line(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        spec.parse(text, PASSES)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sparse-int8:linears=int4",
            "sparse-int8: linears must be one of auto, dynamic, static, weight-only, stored, float, got 'int4'.",
        ),
        ("sparse-int8:convs=yes", "sparse-int8: convs must be one of auto, static, stored, float, got 'yes'."),
        ("simplify:limit=-", "simplify: limit must be a whole number, got '-'."),
    ],
)
def test_our_own_passes_say_what_their_options_take(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        spec.parse(text, known())
    assert str(caught.value) == message


@pytest.mark.parametrize("options", [{"linears": "int4"}, {"convs": "dynamic"}])
def test_values_that_bypass_the_text_are_checked_too(options: dict[str, str]) -> None:
    with pytest.raises(OptionError, match=r"^sparse-int8: \w+ must be one of "):
        known()["sparse-int8"](**options)


@given(
    st.builds(
        Sample,
        keep=st.integers(0, 99) | st.floats(0, 1),
        count=st.integers(),
        share=st.floats(allow_nan=False, allow_infinity=False),
        gentle=st.booleans(),
        score=st.sampled_from(["obs", "magnitude", "4"]),
        limit=st.none() | st.integers(),
        axes=st.lists(st.integers(), min_size=1).map(tuple),
        label=st.text(st.characters(exclude_characters=",", codec="utf-8"), min_size=1),
    )
)
def test_every_pass_survives_the_way_through_text(sample: Sample) -> None:
    back = spec.parse(spec.format(sample), PASSES)
    assert back == sample
    assert type(back.keep) is type(sample.keep) or sample.keep == Sample.keep
    assert spec.format(back) == spec.format(sample)


def test_only_what_differs_from_the_default_is_written_in_declared_order() -> None:
    assert spec.format(Sample()) == "sample"
    assert spec.format(Sample(label="x", count=4)) == "sample:count=4,label=x"
