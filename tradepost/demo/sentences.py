"""Cut a text into paragraphs and sentences, as far as punctuation tells."""

import re
from dataclasses import dataclass

_HEADING_WORDS_MAX = 12
_CONTEXT_CHARS = 60
_CLOSERS = "\"'”’»)]"
_OPENERS = "\"'“‘«(["

# A possible end: stops, perhaps closing quotes or brackets, then space and something a sentence can begin with. The
# ideographic stops end a sentence without space. All runs are bounded, so that no text takes quadratic time.
_END = re.compile(
    rf"[.!?…]{{1,6}}[{re.escape(_CLOSERS)}]{{0,4}}(?=\s+[{re.escape(_OPENERS)}]{{0,4}}[^\W_a-z])"
    rf"|[。！？]{{1,6}}[{re.escape(_CLOSERS)}」』]{{0,4}}"
)
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*•–]|\d{1,3}[.)])[ \t]+\S)")
_LAST_WORD = re.compile(r"[^\s(\[“‘«\"—–]+$")
_NEXT_WORD = re.compile(r"[^\W\d_]+")


def words(text: str) -> frozenset[str]:
    """The set of words in `text`."""
    return frozenset(text.split())


_TITLES = words(
    "mr mrs ms messrs mme mlle dr prof rev hon sir st mt gen col lt capt cmdr sgt maj adm gov sen rep pres"
)
_BEFORE_NUMBERS = words(
    "no nos p pp vol vols fig figs ch chap sec art eq ca c jan feb apr jun jul aug sept oct nov dec"
)
_NEVER_LAST = words("vs viz cf e.g i.e al ibid approx esp incl")
_OFTEN_FIRST = words(
    """a after all although an and as at but during even for from he her here his how however i if in it its
    many most my no now of off on one our she since so some such that the their then there these they this
    those thus to we what when where while who with yet you"""
)


@dataclass(frozen=True)
class Sentence:
    """One sentence in its place; both numbers count from zero."""

    text: str
    paragraph: int
    place: int  # within its paragraph


def split_sentences(text: str) -> list[Sentence]:
    """All sentences in order, on one line each. Headings (short, without a full stop) are left out."""
    found: list[Sentence] = []
    number = 0
    for block in _PARAGRAPH_BREAK.split(text.replace("\r\n", "\n")):
        paragraph = " ".join(block.split())
        sentences = [] if _is_heading(paragraph) else list(_cut(paragraph))
        found += [Sentence(sentence, number, place) for place, sentence in enumerate(sentences)]
        number += bool(sentences)
    return found


def _is_heading(paragraph: str) -> bool:
    ends = paragraph.rstrip(_CLOSERS + "」』").endswith((".", "!", "?", "…", ":", ";", "。", "！", "？"))
    return not ends and len(paragraph.split()) <= _HEADING_WORDS_MAX


def _cut(paragraph: str) -> list[str]:
    sentences: list[str] = []
    start = 0
    for end in _END.finditer(paragraph):
        before = paragraph[max(start, end.start() - _CONTEXT_CHARS) : end.start()]
        after = paragraph[end.end() : end.end() + _CONTEXT_CHARS]
        if not _is_abbreviation(before, end[0], after):
            sentences.append(paragraph[start : end.end()].strip())
            start = end.end()
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if re.search(r"\w", sentence)]


def _is_abbreviation(before: str, stops: str, after: str) -> bool:
    """Whether this full stop belongs to the word before it rather than to the sentence."""
    if not stops.startswith(".") or stops.startswith(".."):
        return False
    match = _LAST_WORD.search(before)
    word = match[0] if match else ""
    plain = word.lower()
    if plain in _TITLES or plain in _NEVER_LAST:
        return True
    if re.fullmatch(r"[^\W\d_]", word) and word.isupper():
        return word != "I"  # else an initial
    if re.fullmatch(r"\s*\d{1,3}", before):  # the number of a list's item
        return True
    if plain in _BEFORE_NUMBERS:
        return after.lstrip()[:1].isdigit()
    if re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word):  # U.S., H.M.S., a.m.: look at what follows
        following = _NEXT_WORD.search(after)
        return following is not None and following[0].lower() not in _OFTEN_FIRST
    return False
