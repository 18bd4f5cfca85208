"""Where sentences end, and where a full stop only ends a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.demo.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Mr. Wallace wrote to Sir C. Lyell.", "Dr. Hooker knew of it."],
        ["When on board H.M.S. ‘Beagle,’ I was struck.", "It was 1837."],
        ["She moved to the U.S.", "She stayed."],
        ["The U.S. Senate met, and S. P. Langley spoke."],
        ["He paid $3.50 at 5 p.m. sharp.", "No. 7 was closed, see fig. 3 and pp. 12–14."],
        ["He said no.", "Nobody heard."],
        ["“Is it you?” he asked.", "“It is I.”", "She laughed!"],
        ["Wait… what?", "Really?!", "(Yes, really.)", "Fine."],
        ["Birds, e.g. Finches, vary; plants etc. vary too.", "Ärzte wissen das."],
        ["It is I.", "He is not."],
        ["これは本です。", "それはペンです。"],
        ["Version 2.0.1 is out.", "3 bugs are left."],
    ],
)
def test_sentences_end_where_a_reader_ends_them(sentences: list[str]) -> None:
    joined = "".join(sentences) if "。" in sentences[0] else " ".join(sentences)
    assert [sentence.text for sentence in split_sentences(joined)] == sentences


def test_wrapped_lines_are_one_paragraph_and_empty_lines_part_them() -> None:
    found = split_sentences("One line\nand more. Second\nsentence.\n\n  \nThird one here.\r\n\r\nFourth one.")
    assert [(s.text, s.paragraph, s.place) for s in found] == [
        ("One line and more.", 0, 0), ("Second sentence.", 0, 1), ("Third one here.", 1, 0), ("Fourth one.", 2, 0),
    ]  # fmt: skip


def test_headings_are_left_out_and_list_items_stand_alone() -> None:
    found = split_sentences(
        "THE TITLE\n\nIt begins here.\n- First item is long.\n- Second item too.\n1. And a third."
    )
    assert [s.text for s in found] == [
        "It begins here.",
        "- First item is long.",
        "- Second item too.",
        "1. And a third.",
    ]


def test_a_long_paragraph_without_a_full_stop_is_kept() -> None:
    text = " ".join(f"word{number}" for number in range(40))
    assert [s.text for s in split_sentences(text)] == [text]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_words_come_through_in_order_whatever_the_text(text: str) -> None:
    words = text.split()
    found = " ".join(sentence.text for sentence in split_sentences(text)).split()
    remaining = iter("".join(words))
    assert all(letter in remaining for letter in "".join(found))
