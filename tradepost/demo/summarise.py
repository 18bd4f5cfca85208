"""Shorten a text to its key sentences. Extractive, deterministic, pure Python: no model, nothing to download.

Sentences are ranked as in LexRank: each votes for those it shares words with, rare words counting more, and a vote
from a central sentence weighs more. Place and readability correct the rank; a sentence that repeats one already
taken is passed over (maximal marginal relevance). The answer keeps the order of the text.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tradepost.demo.sentences import Sentence, split_sentences, words

Unit = Literal["words", "sentences", "paragraphs"]

_LENGTH = re.compile(r"\s*(\d{1,6})\s*(word|sentence|line|paragraph)?s?\s*", re.IGNORECASE)
_COUNT_MAX: dict[Unit, int] = {"words": 5000, "sentences": 200, "paragraphs": 50}
_SENTENCES_PER_PARAGRAPH = 3

_DAMPING = 0.85
_ROUNDS_MAX = 60
_RANK_CHANGE_MIN = 1e-6
_RELEVANCE = 0.6  # against 0.4 for being new
_SAME_PARAGRAPH = 0.3  # as like as if they shared a third of their weight: the summary covers the whole text

_STOP_WORDS = words(
    """a about above after again against all almost along also although always am among an and another any are
    aren as at be became because become been before being below between both but by came can cannot come could
    did do does doing don down during each either else ever every few for from further get give given go had has
    have having he hence her here hers herself him himself his how however i if in into is it its itself just
    least less let like made make many may me might mine more most much must my myself neither never no nor not
    now of off often on once one only or other ought our ours out over own perhaps quite rather same see seem
    shall she should since so some still such take than that the their theirs them themselves then there
    therefore these they this those though through thus to too two under until up upon us very was we well were
    what when where whether which while who whom whose why will with within without would yet you your yours"""
)
# Such a beginning leans on the sentence before, which may not be taken.
_LEANING = re.compile(
    r"\W*(this|these|those|that|it|he|she|they|such|but|and|or|so|for|nor|yet|hence|thus|therefore|however|nevertheless|"
    r"moreover|furthermore|besides|again|also|here|there|then|still|consequently|accordingly|otherwise|instead|"
    r"on the other hand|for (?:example|instance)|in (?:this|that|the same|such|like) \w+|the (?:former|latter|same))\b",
    re.IGNORECASE,
)
# Such a sentence speaks of the text instead of the matter.
_SIGNPOST = re.compile(
    r"\b(?:(?:I|we) (?:shall|will|must)(?: \w+)?(?: now| first| next)? "
    r"(?:discuss|consider|treat|examine|devote|make|see|turn)|"
    r"(?:this|next|last|present|previous|following) (?:chapter|section|article|essay|paper)|table of contents)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Length:
    """How long a summary is to be."""

    count: int
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> "Length":
        """Read NIP-90's `length` param of kind 5001: "3 sentences", "2 paragraphs", "100 words"; a number alone counts
        sentences. Raises `ValueError` with what is allowed.
        """
        match = _LENGTH.fullmatch(text)
        word = ((match[2] or "sentence") if match else "").lower()
        unit: Unit = "words" if word == "word" else "paragraphs" if word == "paragraph" else "sentences"
        if match is None or not 1 <= int(match[1]) <= _COUNT_MAX[unit]:
            limits = ", ".join(f"1 to {count} {name}" for name, count in _COUNT_MAX.items())
            raise ValueError(f"length must be like '3 sentences'; possible are {limits}")
        return cls(int(match[1]), unit)


def summarise(text: str, length: str = "5 sentences") -> str:
    """The key sentences of `text`, in their order; paragraphs are parted by an empty line.

    Raises `ValueError` if `length` is none (see `Length.parse`) or if the text holds no sentence. Takes time in
    proportion to the length of the text, about a second for a book.
    """
    wanted = Length.parse(length)
    sentences = split_sentences(text)
    if not sentences:
        raise ValueError("the text holds no sentence to choose from")
    vectors = _vectors([sentence.text for sentence in sentences])
    ranking = _by_merit(sentences, _scores(sentences, vectors), vectors)
    if wanted.unit == "words":
        return " ".join(_within_words(sentences, ranking, wanted.count))
    count = wanted.count * (_SENTENCES_PER_PARAGRAPH if wanted.unit == "paragraphs" else 1)
    chosen = [
        sentences[index].text
        for index in sorted(index for index, _ in zip(ranking, range(count), strict=False))
    ]
    if wanted.unit == "sentences":
        return " ".join(chosen)
    size = math.ceil(len(chosen) / wanted.count)
    return "\n\n".join(" ".join(chosen[start : start + size]) for start in range(0, len(chosen), size))


Vector = dict[str, float]


def _vectors(sentences: Sequence[str]) -> list[Vector]:
    """TF-IDF vectors of length one (or empty)."""
    counts = [Counter(_terms(sentence)) for sentence in sentences]
    spread = Counter(term for count in counts for term in count)
    vectors: list[Vector] = []
    for count in counts:
        weights = {
            term: (1 + math.log(times)) * math.log((1 + len(counts)) / spread[term])
            for term, times in count.items()
        }
        norm = math.sqrt(sum(weight * weight for weight in weights.values()))
        vectors.append({term: weight / norm for term, weight in weights.items()} if norm else {})
    return vectors


def _terms(sentence: str) -> Iterator[str]:
    for word in re.findall(r"[^\W_]+", re.sub(r"[’']s\b", "", sentence.lower())):
        if len(word) > 1 and word not in _STOP_WORDS:
            yield _stem(word)


def _stem(word: str) -> str:
    """Bring the commonest English inflections together; a crude cut is enough to compare by."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending, left in (("ing", 4), ("ed", 4), ("ly", 4), ("s", 3)):
        if word.endswith(ending) and len(word) - len(ending) >= left and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


def _scores(sentences: Sequence[Sentence], vectors: Sequence[Vector]) -> list[float]:
    """Rank times place times readability, the best being 1."""
    last = sentences[-1].paragraph
    scores = []
    for sentence, rank in zip(sentences, _rank(vectors), strict=True):
        length = len(sentence.text.split())
        place = 1.15 if sentence.place == 0 else 1.0
        if sentence.place == 0 and sentence.paragraph in (0, last):
            place = 1.25
        readable = min(1.0, length / 10) ** 2 * min(1.0, 40 / length) ** 0.5
        if sentence.text.rstrip("\"'”’)").endswith("?"):
            readable *= 0.6
        if _LEANING.match(sentence.text):
            readable *= 0.7
        if _SIGNPOST.search(sentence.text):
            readable *= 0.5
        scores.append(rank * place * readable)
    best = max(scores) or 1.0
    return [score / best for score in scores]


def _rank(vectors: Sequence[Vector]) -> list[float]:
    """Stationary weights of a walk among sentences, steps being as likely as the cosine of two vectors.

    With the vectors as rows of X the cosines are X·Xᵀ, which is never formed: a step goes through the terms instead.
    """
    number = len(vectors)
    degree = [max(total, 1e-12) for total in _spread([1.0] * number, vectors)]
    rank = [1 / number] * number
    for _ in range(_ROUNDS_MAX):
        flow = _spread([weight / out for weight, out in zip(rank, degree, strict=True)], vectors)
        update = [(1 - _DAMPING) / number + _DAMPING * weight for weight in flow]
        change = sum(abs(new - old) for new, old in zip(update, rank, strict=True))
        rank = update
        if change < _RANK_CHANGE_MIN:
            break
    return rank


def _spread(weights: Sequence[float], vectors: Sequence[Vector]) -> list[float]:
    """(X·Xᵀ − I)·weights: what each sentence is given by all others."""
    by_term: dict[str, float] = {}
    for weight, vector in zip(weights, vectors, strict=True):
        for term, share in vector.items():
            by_term[term] = by_term.get(term, 0.0) + weight * share
    return [
        max(0.0, sum(share * by_term[term] for term, share in vector.items()) - (weight if vector else 0.0))
        for weight, vector in zip(weights, vectors, strict=True)
    ]


def _by_merit(
    sentences: Sequence[Sentence], scores: Sequence[float], vectors: Sequence[Vector]
) -> Iterator[int]:
    """Indices of sentences, best first, where likeness to those already given counts against a sentence."""
    left = set(range(len(scores)))
    likeness = [0.0] * len(scores)
    while left:
        taken = max(
            left, key=lambda index: (_RELEVANCE * scores[index] - (1 - _RELEVANCE) * likeness[index], -index)
        )
        left.remove(taken)
        yield taken
        for index in left:
            alike = _cosine(vectors[taken], vectors[index])
            if sentences[taken].paragraph == sentences[index].paragraph:
                alike = max(alike, _SAME_PARAGRAPH)
            likeness[index] = max(likeness[index], alike)


def _cosine(one: Vector, other: Vector) -> float:
    small, large = (one, other) if len(one) < len(other) else (other, one)
    return sum(weight * large.get(term, 0.0) for term, weight in small.items())


def _within_words(sentences: Sequence[Sentence], ranking: Iterator[int], words_max: int) -> list[str]:
    """The best sentences that fit together; if not even one fits, the beginning of the best."""
    chosen: list[int] = []
    left = words_max
    tried: list[int] = []
    for index in ranking:
        tried.append(index)
        length = len(sentences[index].text.split())
        if length <= left:
            chosen.append(index)
            left -= length
        if left < words_max * 0.1 or len(tried) > 3 * (len(chosen) + 10):
            break
    if chosen:
        return [sentences[index].text for index in sorted(chosen)]
    return [" ".join(sentences[tried[0]].text.split()[:words_max]) + " …"]
