"""Back-off models from text: they sum to one, and what a score says of one n-gram is what dropping it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.ngrams.backoff import BackOff
from onnxprune.ngrams.building import build_ngram
from onnxprune.ngrams.clustering import clustered, word_classes
from onnxprune.ngrams.pruning import Joint, Selection, rebuilt, stolcke, weighted_difference
from onnxprune.ngrams.text import CHAIN, Language, from_arpa, from_sentences, sentences_of
from onnxprune.solvers.exchange import exchange_classes, likelihood
from tests.ngrams.making import Array, language


def distribution(models: tuple[BackOff, ...], history: tuple[int, ...], words: Array) -> Array:
    """[words] p of every word behind a history, the nearest word first."""
    ids = {CHAIN[0]: words} | {name: np.full(len(words), id_) for name, id_ in zip(CHAIN[1:], history, strict=False)}
    return np.exp(Joint(models, CHAIN[:3]).log_p(ids))


def histories(model: BackOff) -> list[tuple[int, ...]]:
    """Histories with n-grams of all orders, the nearest word first; and one that was never seen."""
    return [(), (5,), (7, 7), *(tuple(int(i) for i in row[::-1]) for rows, _ in model.histories for row in rows[:20])]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_every_history_sums_to_one(order: int) -> None:
    made = language(order=order)
    words = np.arange(len(made.words))
    for history in histories(made.model):
        assert distribution((made.model,), history, words).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("order", [2, 3])
def test_the_score_of_an_ngram_is_the_relative_entropy_of_dropping_it_alone(order: int) -> None:
    """D = Σ p(h) p(w|h) ln p(w|h) / p'(w|h) over the one history that changes, summed by brute force."""
    made = language()
    joint, model = Joint((made.model,), CHAIN[:3]), made.model
    scores = stolcke(joint)[0][order - 2]
    words = np.arange(len(made.words))
    rows, number = model.histories[order - 2]
    for at in range(0, len(scores), 7):
        stays = [np.ones(len(grams), bool) for grams in model.grams[1:]]
        stays[order - 2][at] = False
        # Dropping a bigram changes alphas of longer histories, too; the score is of its own history alone.
        shorter = rebuilt(model, stays[: order - 1])
        history = tuple(int(i) for i in rows[number[at]][::-1])
        before = distribution((rebuilt(model, [np.ones(len(g), bool) for g in model.grams[1:order]]),), history, words)
        after = distribution((shorter,), history, words)
        log_history = joint.log_history(model.alphas[order - 2].columns, rows[number[at]][None])[0]
        told = before > 0
        entropy = np.exp(log_history) * (before[told] * np.log(before[told] / after[told])).sum()
        assert scores[at] == pytest.approx(np.expm1(entropy), rel=1e-6, abs=1e-12)


def test_the_probability_of_a_history_comes_from_the_model() -> None:
    made = language()
    joint = Joint((made.model,), CHAIN[:3])
    # p(u, v) = p(u) p(v|u); the columns are oldest first.
    u, v = 5, 9
    expected = distribution((made.model,), (), np.array([u]))[0] * distribution((made.model,), (u,), np.array([v]))[0]
    assert np.exp(joint.log_history((CHAIN[2], CHAIN[1]), np.array([[u, v]])))[0] == pytest.approx(expected)
    # Sentences begin with what is never predicted, as often as the likeliest word.
    likeliest = distribution((made.model,), (), np.arange(len(made.words))).max()
    assert np.exp(joint.log_history((CHAIN[1],), np.array([[0]])))[0] == pytest.approx(likeliest)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.0])
def test_a_target_is_met_from_below_and_what_longer_ngrams_need_stays(share: float) -> None:
    made = language()
    joint = Joint((made.model,), CHAIN[:3])
    for scores in (stolcke(joint), weighted_difference(joint, None)):
        smaller = Selection(joint, scores).to_target(int(share * joint.parameters))
        model = smaller.models[0]
        # The best of every order stays: a trigram, two bigrams that it needs and the best one, and four alphas.
        least = len(model.grams[0]) + 8
        assert smaller.parameters <= max(share * joint.parameters, least)
        bigrams = {tuple(row) for row in model.grams[1].ids.tolist()}
        for u, v, w in model.grams[2].ids.tolist():
            assert (u, v) in bigrams
            assert (v, w) in bigrams
        for history in histories(made.model):
            total = distribution(smaller.models, history, np.arange(len(made.words))).sum()
            assert total == pytest.approx(1, abs=1e-9)


def test_classes_change_no_probability_and_the_models_are_larger() -> None:
    """P(z|h) = P(Z|h) · P(z|h, Z) for every word behind every history."""
    made = language()
    joint = Joint((made.model,), CHAIN[:3])
    classes = word_classes(joint, 4)
    two = clustered(joint, classes)
    words = np.arange(len(made.words))
    assert two.parameters > joint.parameters
    assert len(set(classes(words).tolist())) == 4
    for history in histories(made.model):
        expected = distribution(joint.models, history, words)
        assert distribution(two.models, history, words) == pytest.approx(expected, rel=1e-9)


def test_pruned_classes_sum_to_one() -> None:
    made = language()
    joint = Joint((made.model,), CHAIN[:3])
    two = clustered(joint, word_classes(joint, 4))
    smaller = Selection(two, stolcke(two)).to_target(joint.parameters // 3)
    for history in histories(made.model):
        total = distribution(smaller.models, history, np.arange(len(made.words))).sum()
        assert total == pytest.approx(1, abs=1e-9)


def test_no_single_move_of_a_word_raises_what_classes_tell() -> None:
    random = np.random.default_rng(0)
    before, words = (grid.ravel() for grid in np.meshgrid(np.arange(12), np.arange(10), indexing="ij"))
    counts = random.poisson(3, len(words)).astype(float)
    mass = np.bincount(words, counts)
    found = exchange_classes(before, words, counts, mass, 3)
    best = likelihood(before, words, counts, mass, found)
    for word in range(10):
        for other in range(3):
            moved = found.copy()
            moved[word] = other
            assert likelihood(before, words, counts, mass, moved) <= best + 1e-9
    first = np.empty(10, np.int64)
    first[np.argsort(-mass, kind="stable")] = np.arange(10) % 3
    assert best > likelihood(before, words, counts, mass, first)


ARPA = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-99\t<s>\t-0.30103
-0.30103\tcat\t-0.1
-0.60206\tdog
-0.60206\t</s>

\\2-grams:
-0.30103\t<s> cat
-0.2\tcat </s>

\\end\\
"""


def test_an_arpa_file_keeps_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    path.write_text(ARPA)
    made = from_arpa(path)
    assert made.words == ("<s>", "cat", "dog", "</s>")
    ids = {CHAIN[0]: np.array([1, 2, 3]), CHAIN[1]: np.array([0, 0, 1])}
    # log10: the bigram; alpha(<s>) p(dog) = -0.30103 - 0.60206; the bigram cat </s>.
    assert made.model.log_p(ids) / np.log(10) == pytest.approx([-0.30103, -0.90309, -0.2])


def test_a_beginning_that_is_written_as_certain_is_never_predicted(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    path.write_text(ARPA.replace("-99\t<s>", "0\t<s>"))
    made = from_arpa(path)
    assert made.model.log_p({CHAIN[0]: np.array([0])})[0] == pytest.approx(-99 * np.log(10))


def test_words_that_do_not_fit_a_key_are_told(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{at}" for at in range(5000)))
    with pytest.raises(DataError) as error:
        build_ngram(path, tmp_path / "model.onnx", order=5)
    # 5000 words take 13 bits each, and 65 are more than 62.
    assert str(error.value).startswith(f"{path}: too many words for n-grams so long: ")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\\1-grams:\n-1 a b c d\n", "a line of 1-grams must hold a logarithm and 1 words, got '-1 a b c d'."),
        ("\\1-grams:\nnan a\n", "a line of 1-grams must hold a logarithm and 1 words, got 'nan a'."),
        ("\\1-grams:\nx a\n", "a line of 1-grams must hold a logarithm and 1 words, got 'x a'."),
        ("\\1-grams:\n-1 a\n\\2-grams:\n-1 a b\n", "every word must stand among the 1-grams, 'b' does not."),
        ("nothing", "an ARPA file must hold n-grams of 1 to 2 … 5 words, got 0 sections."),
    ],
)
def test_a_damaged_arpa_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "model.arpa"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        from_arpa(path)
    assert str(error.value) == f"{path}: {message}"


def test_text_without_words_or_with_odd_options_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The cat's mat.\n\nA dog!\n")
    assert sentences_of(path) == [["the", "cat's", "mat", "."], ["a", "dog", "!"]]
    with pytest.raises(DataError) as error:
        from_sentences([["a"]], order=6)
    assert str(error.value) == "order must be 2 … 5, got 6."
    with pytest.raises(DataError) as error:
        from_sentences([["a"]], discount=1.0)
    assert str(error.value) == "discount must be in (0, 1), got 1.0."
    with pytest.raises(DataError, match="needs text"):
        from_sentences([[]])


def test_rare_words_become_the_unknown_one() -> None:
    made: Language = from_sentences([["a", "a", "b"], ["a", "c"]], order=2, cutoff=1)
    assert made.words == ("<s>", "</s>", "<unk>", "a")
