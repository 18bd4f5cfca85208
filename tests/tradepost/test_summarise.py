"""The work of the demo's agent: what is chosen, how much of it, and that it reads well."""

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.demo.sentences import split_sentences
from tradepost.demo.summarise import Length, summarise

ESSAY = (Path(__file__).parents[2] / "examples" / "struggle-for-existence.txt").read_text(encoding="utf-8")
SENTENCES = [sentence.text for sentence in split_sentences(ESSAY)]

BEES = """Bees make honey from the nectar of flowers. A colony of bees may visit two million flowers for a jar of honey.

The beekeeper wore a hat. It was a fine morning.

Honey keeps for centuries because it holds little water and the bees add an acid to the nectar.

Honey keeps for centuries, since bees add acid to nectar and honey holds little water."""


@pytest.mark.parametrize("count", [1, 3, 10])
def test_sentences_are_the_texts_own_in_its_order_and_as_many_as_asked(count: int) -> None:
    chosen = [sentence.text for sentence in split_sentences(summarise(ESSAY, f"{count} sentences"))]
    assert len(chosen) == count
    places = [SENTENCES.index(sentence) for sentence in chosen]
    assert places == sorted(set(places))


def test_the_essay_is_summed_up_by_what_it_is_about() -> None:
    summary = summarise(ESSAY, "5 sentences")
    assert (
        "struggle for existence inevitably follows from the high rate at which all organic beings tend"
        in summary
    )
    assert "this chapter" not in summary
    assert not any(sentence.text.endswith("?") for sentence in split_sentences(summary))


def test_the_matter_is_chosen_over_the_chatter_and_told_once() -> None:
    summary = summarise(BEES, "2 sentences")
    assert "beekeeper" not in summary
    assert "fine morning" not in summary
    assert summary.count("centuries") == 1


@pytest.mark.parametrize("words", [30, 100, 400])
def test_a_word_limit_is_kept_and_nearly_used(words: int) -> None:
    assert words * 0.5 < len(summarise(ESSAY, f"{words} words").split()) <= words


def test_a_word_limit_under_any_sentence_cuts_the_best_one() -> None:
    assert summarise("Here are seven words in one sentence.", "3 words") == "Here are seven …"


def test_paragraphs_are_parted_by_an_empty_line() -> None:
    assert [len(split_sentences(part)) for part in summarise(ESSAY, "3 paragraphs").split("\n\n")] == [
        3,
        3,
        3,
    ]


@pytest.mark.parametrize("length", ["50 sentences", "20 paragraphs", "5000 words"])
def test_a_short_text_comes_back_whole(length: str) -> None:
    text = "The first sentence tells of bees. The second sentence tells of honey."
    assert summarise(text, length).replace("\n\n", " ") == text


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("3 sentences", Length(3, "sentences")),
        ("1 sentence", Length(1, "sentences")),
        ("4", Length(4, "sentences")),
        ("2 lines", Length(2, "sentences")),
        (" 2 Paragraphs ", Length(2, "paragraphs")),
        ("100 words", Length(100, "words")),
    ],
)
def test_length_as_kind_5001_writes_it(text: str, length: Length) -> None:
    assert Length.parse(text) == length


@pytest.mark.parametrize(
    "text", ["", "long", "0 sentences", "-1 words", "201 sentences", "5001 words", "3 pages", "9" * 30]
)
def test_a_length_that_is_none_is_refused_with_what_is_possible(text: str) -> None:
    with pytest.raises(ValueError, match="length must be like '3 sentences'"):
        summarise(ESSAY, text)


@pytest.mark.parametrize("text", ["", " \n ", "…", "--- !!! ---"])
def test_a_text_without_a_sentence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no sentence"):
        summarise(text)


@given(st.text(min_size=1, max_size=400), st.sampled_from(["2 sentences", "9 words", "2 paragraphs"]))
def test_any_text_is_summed_up_or_refused(text: str, length: str) -> None:
    try:
        summary = summarise(text, length)
    except ValueError:
        return
    assert summary.strip()
    assert summary == summarise(text, length)


@pytest.mark.parametrize("letters", [".", "?)", "a.", "\n", " \n", "- ", "。", "(", "1.", "A. "])
def test_no_text_takes_quadratic_time(letters: str) -> None:
    started = time.perf_counter()
    with contextlib.suppress(ValueError):
        summarise(letters * (100_000 // len(letters)))
    assert time.perf_counter() - started < 10


def test_a_book_takes_seconds_not_minutes() -> None:
    book = "\n\n".join(f"{ESSAY}\nEdition {number} differs in nothing else." for number in range(30))
    started = time.perf_counter()
    assert len(split_sentences(summarise(book, "3 sentences"))) == 3
    assert time.perf_counter() - started < 10
