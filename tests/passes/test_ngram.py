"""`ngram`: language models and text classifiers with fewer n-grams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxprune
from onnxprune import spec
from onnxprune.errors import DataError, Declined, OptionError
from onnxprune.model import Model, load, save
from onnxprune.ngrams.building import as_model, words_of
from onnxprune.ngrams.reading import find_models
from onnxprune.ngrams.text import CHAIN, from_sentences
from onnxprune.passes import known
from onnxprune.plan import Edit
from onnxprune.protocol import Context
from tests.graphs import outputs_of
from tests.ngrams.making import Array, language, sentences, trigram, windows, with_vectorizer

FIXTURE = Path(__file__).parents[2] / "fixtures" / "gloss-gpt"


def pruned(model: Model, text: str, context: Context | None = None) -> tuple[Model, tuple[Edit, ...]]:
    one = spec.parse(text, known())
    edits = one.propose(model, (), context or Context()).edits
    return one.apply(model, edits)[0], edits


def log_p(path: Path, rows: Array) -> Array:
    found: Array = outputs_of(path, {"ids": rows})["log_p"]
    return found


@pytest.mark.parametrize(
    "options", ["keep=0.4", "keep=0.3,classes=4", "threshold=1e-4", "keep=0.5,score=weighted-difference"]
)
def test_the_file_sums_to_one_behind_every_history(options: str, tmp_path: Path) -> None:
    made = language()
    smaller, edits = pruned(as_model(made), f"ngram:{options}")
    assert edits
    path = tmp_path / "smaller.onnx"
    save(smaller, path)
    onnx.checker.check_model(str(path), full_check=True)
    words = np.arange(len(made.words))
    pairs = [row for rows, _ in made.model.histories[1:] for row in rows[:40]] + [np.array([-1, 0]), np.array([9, 9])]
    for u, v in pairs:
        rows = np.stack([np.full(len(words), u), np.full(len(words), v), words], axis=1)
        # 32-bit logarithms of 25 words round by 1e-6 at most.
        assert np.exp(log_p(path, rows).astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("options", ["keep=0.4", "keep=0.3,classes=4"])
def test_the_file_says_what_the_model_in_memory_says(options: str, tmp_path: Path) -> None:
    smaller, _ = pruned(as_model(language()), f"ngram:{options}")
    path = tmp_path / "smaller.onnx"
    save(smaller, path)
    (site,), _ = find_models(load(path).graph)
    rows = windows()
    expected = site.joint.log_p(dict(zip(reversed(site.joint.chain), rows.T, strict=True)))
    assert log_p(path, rows) == pytest.approx(expected, abs=1e-5)


def test_classes_alone_change_no_answer(tmp_path: Path) -> None:
    model = as_model(language())
    larger, _ = pruned(model, "ngram:classes=5")
    save(model, tmp_path / "before.onnx")
    save(larger, tmp_path / "after.onnx")
    # Words that are unknown to the model, too.
    rows = np.concatenate([windows(), [[5, 6, 90], [90, 6, 5], [5, 90, 6]]])
    before, after = log_p(tmp_path / "before.onnx", rows), log_p(tmp_path / "after.onnx", rows)
    assert after == pytest.approx(before, abs=1e-5)
    # A run on what has classes adds no others.
    assert not pruned(load(tmp_path / "after.onnx"), "ngram:classes=5")[1]


def test_stolcke_beats_the_cutoff_at_equal_size_on_text() -> None:
    """Tokens of the GPT fixture: three quarters make the model, the others are looked at."""
    blocks = np.load(FIXTURE / "calibration.npz")["input_ids"].astype(str)
    made = from_sentences(blocks[: 3 * len(blocks) // 4].tolist())
    numbers = {word: at for at, word in enumerate(made.words)}
    test = np.array(
        [[0] + [numbers.get(word, 2) for word in block] for block in blocks[3 * len(blocks) // 4 :].tolist()]
    )
    rows = np.lib.stride_tricks.sliding_window_view(
        np.pad(test, ((0, 0), (1, 0)), constant_values=-1), 3, axis=1
    ).reshape(-1, 3)
    text = np.array([[0] + [numbers[word] for word in block] for block in blocks[: 3 * len(blocks) // 4].tolist()])
    seen = np.lib.stride_tricks.sliding_window_view(
        np.pad(text, ((0, 0), (1, 0)), constant_values=-1), 3, axis=1
    ).reshape(-1, 3)
    model = as_model(made)

    def perplexity(one: Model) -> tuple[int, float]:
        (site,), _ = find_models(one.graph)
        found = site.joint.log_p(dict(zip(reversed(site.joint.chain), rows.T, strict=True)))
        return site.joint.parameters, float(np.exp(-found.mean()))

    by_count = pruned(model, "ngram:threshold=2,score=count", counted(model, seen))[0]
    size, cutoff = perplexity(by_count)
    smaller, stolcke = perplexity(pruned(model, f"ngram:keep={size}")[0])
    assert smaller <= size
    assert stolcke < cutoff


def counted(model: Model, rows: Array) -> Context:
    from onnxprune.calibration import collect

    one = spec.parse("ngram:keep=0.5,score=count", known())
    return Context(statistics=collect(model, one.needs(model, ()), ({"ids": rows},)))


def test_a_cutoff_drops_what_samples_hold_no_more_often() -> None:
    text = sentences()
    made = from_sentences(text)
    numbers = {word: at for at, word in enumerate(made.words)}
    padded = [[-1, 0, *(numbers[word] for word in sentence), 1] for sentence in text]
    rows = np.array([ids[at : at + 3] for ids in padded for at in range(len(ids) - 2)])
    model = as_model(made)
    smaller, _ = pruned(model, "ngram:threshold=3,score=count", counted(model, rows))
    (site,), _ = find_models(smaller.graph)
    seen = {tuple(row): int(count) for row, count in zip(*np.unique(rows, axis=0, return_counts=True), strict=True)}
    kept = {tuple(row) for row in site.joint.models[0].grams[2].ids.tolist()}
    assert kept == {gram for gram, count in seen.items() if count >= 3 and gram[0] >= 0}


def test_counts_need_samples() -> None:
    with pytest.raises(DataError) as error:
        pruned(as_model(language()), "ngram:keep=0.5,score=count")
    assert str(error.value) == "ngram: score=count needs sample inputs. Give --data, or another score."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("keep=0.0", "ngram: keep must be a share in (0, 1] or a count from 1, got 0.0."),
        ("keep=0.5,threshold=1.0", "ngram: keep and threshold exclude each other. Give one of them."),
        ("threshold=nan", "ngram: threshold must be a finite number, got nan."),
        ("classes=-1", "ngram: classes must be 0 … 4096, got -1."),
        ("classes=4,score=count", "ngram: samples do not count classes of words. Give another score."),
    ],
)
def test_options_that_nothing_meets_are_told(options: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        spec.parse(f"ngram:{options}", known())
    assert str(error.value) == message


def test_an_edit_for_another_model_is_declined() -> None:
    _, edits = pruned(as_model(language()), "ngram:keep=0.5")
    one = spec.parse("ngram", known())
    with pytest.raises(Declined, match="of another number"):
        one.apply(as_model(language(100)), edits)
    with pytest.raises(Declined, match="the model has no table"):
        one.apply(load_proto(trigram(language().model)), edits)


def load_proto(proto: onnx.ModelProto) -> Model:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(proto, Path(folder) / "model.onnx")
        return load(Path(folder) / "model.onnx")


def test_dropped_columns_equal_masked_ones(tmp_path: Path) -> None:
    """Masked: the weights of their n-grams are zero, so that the counts of what goes are."""
    proto = with_vectorizer(trigram(language(100).model))
    onnx.save(proto, tmp_path / "model.onnx")
    smaller, edits = pruned(load(tmp_path / "model.onnx"), "ngram:keep=0.5")
    save(smaller, tmp_path / "smaller.onnx")
    (edit,) = [one for one in edits if one.kind == "drop-columns"]
    kept = np.unpackbits(edit.tensors["kept"], count=17).astype(bool)
    assert kept.sum() == 8
    vectorizer = next(node for node in proto.graph.node if node.op_type == "TfIdfVectorizer")
    attributes = {one.name: one for one in vectorizer.attribute}
    indexes = np.array(attributes["ngram_indexes"].ints)
    attributes["weights"].floats[:] = np.where(kept[indexes], attributes["weights"].floats, 0).tolist()
    onnx.save(proto, tmp_path / "masked.onnx")
    rows = np.random.default_rng(0).integers(3, 15, (60, 3))
    masked, cut = (outputs_of(tmp_path / f"{name}.onnx", {"ids": rows})["scores"] for name in ("masked", "smaller"))
    assert cut == pytest.approx(masked, abs=1e-6)
    assert np.abs(cut).max() > 0.1


def classifier(name: str, vectorizer: Any, tmp_path: Path) -> tuple[Path, Array]:
    """A classifier of sentences by whether a word is in them, as scikit-learn's exporter writes it."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    text = [" ".join(sentence) for sentence in sentences(200)]
    labels = ["cat" in sentence.split() or "the big" in sentence for sentence in text]
    model = LogisticRegression() if name == "logistic" else MultinomialNB()
    pipeline = make_pipeline(vectorizer, model).fit(text, labels)
    # The session's locale is not everyone's.
    options = {id(model): {"zipmap": False}, id(vectorizer): {"locale": "C"}}
    opsets = {"": 17, "ai.onnx.ml": 2}
    proto = to_onnx(
        pipeline, initial_types=[("text", StringTensorType([None, 1]))], options=options, target_opset=opsets
    )
    path = tmp_path / "classifier.onnx"
    onnx.save(proto, path)
    held_out = np.array([[" ".join(sentence)] for sentence in sentences(100, seed=3)], dtype=object)
    return path, held_out


@pytest.mark.parametrize("kind", ["count", "tfidf"])
@pytest.mark.parametrize("name", ["logistic", "bayes"])
def test_a_classifier_of_scikit_learn_loses_columns_and_keeps_its_answers(name: str, kind: str, tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    vectorizer = (CountVectorizer if kind == "count" else TfidfVectorizer)(ngram_range=(1, 2))
    path, text = classifier(name, vectorizer, tmp_path)
    smaller, (edit,) = pruned(load(path), "ngram:keep=0.5")
    assert edit.args["after"] == edit.args["before"] // 2
    save(smaller, tmp_path / "smaller.onnx")
    onnx.checker.check_model(str(tmp_path / "smaller.onnx"))
    before, after = (outputs_of(one, {"text": text}) for one in (path, tmp_path / "smaller.onnx"))
    agree = (before["label"] == after["label"]).mean()
    assert agree > 0.9
    assert after["probabilities"].shape == before["probabilities"].shape


def test_columns_that_something_else_reads_are_left_with_the_reason(tmp_path: Path) -> None:
    proto = with_vectorizer(trigram(language(100).model))
    proto.graph.output.append(helper.make_tensor_value_info("normal", TensorProto.FLOAT, ["n", 17]))
    onnx.save(proto, tmp_path / "model.onnx")
    one = spec.parse("ngram:keep=0.5", known())
    proposal = one.propose(load(tmp_path / "model.onnx"), (), Context())
    assert [edit.kind for edit in proposal.edits] == ["prune-ngrams"]
    assert [(skip.site, skip.why) for skip in proposal.skips] == [("counts", "its columns are an output of the model")]


def test_a_model_of_text_goes_through_the_whole_job(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(sentence) for sentence in sentences()))
    made = onnxprune.build_ngram(text, tmp_path / "model.onnx")
    assert words_of(load(tmp_path / "model.onnx")) == made.words
    np.savez(tmp_path / "data.npz", ids=windows())
    result = onnxprune.optimize(
        tmp_path / "model.onnx",
        data=str(tmp_path / "data.npz"),
        passes=("ngram:keep=0.5",),
        output=tmp_path / "out.onnx",
    )
    (report,) = [one for one in result.reports if one.pass_spec.startswith("ngram")]
    (change,) = report.changes
    assert change.site == "ngrams.0"
    # Besides the tables there is one number, which missing keys are told by.
    assert result.before.params == made.model.parameters + 1
    assert result.after.params <= 0.5 * made.model.parameters + 1
    assert change.params_after <= change.params_before * 0.51
    assert (tmp_path / "out.onnx").stat().st_size < 0.7 * (tmp_path / "model.onnx").stat().st_size
    onnxprune.apply(tmp_path / "model.onnx", tmp_path / "out.plan.json", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    assert json.loads(load(tmp_path / "out.onnx").metadata["onnxprune.words"]) == list(made.words)
    assert made.model.word == CHAIN[0]
