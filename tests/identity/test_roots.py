"""Roots and pages: what is written is read again, what has another form is refused, and what contradicts is found."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import InvalidReceipt, make_template, parse_event, sign_event
from identity.event import Event, EventTemplate, Tag
from identity.merkle import SIZE_MAX
from identity.roots import (
    ALGORITHM,
    APP_DATA,
    LEAVES_NAME,
    PAGE_BYTES_MAX,
    RELAYS_MAX,
    ROOT_NAME,
    ROOT_REPLACEABLE,
    Head,
    Page,
    Root,
    find_contradictions,
    find_leaves,
    make_pages,
    parse_page,
    parse_root,
)
from tests.identity.receipt_files import AGENT, NOW, head_of, prove

LOG = AGENT.public_key
LEAVES = [f"leaf {number}" for number in range(12)]
ids = st.binary(min_size=32, max_size=32).map(bytes.hex)
heads = st.builds(Head, size=st.integers(0, SIZE_MAX), root=ids)
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1, max_size=40)
relays = st.lists(lines, max_size=RELAYS_MAX).map(tuple)


@st.composite
def roots(draw: st.DrawFn) -> Root:
    previous = draw(st.none() | heads)
    consistency = draw(st.lists(ids, max_size=40)) if previous else []
    return Root(draw(ids), draw(heads), previous, tuple(consistency), draw(relays))


def signed(template: EventTemplate) -> Event:
    return parse_event(sign_event(template, AGENT).to_json())


def root(size: int, previous: int | None = None, leaves: list[str] = LEAVES) -> Root:
    """The root over so many leaves, with the proof that it grew out of the one before."""
    here = leaves[:size]
    before = None if previous is None else head_of(here[:previous])
    return Root(LOG, head_of(here), before, prove(here, previous) if previous else (), ("wss://relay.test",))


def event_of(found: Root) -> Event:
    return signed(found.to_templates(NOW)[0])


# Roots -----------------------------------------------------------------------------------------------------------


@given(roots())
def test_a_root_is_read_as_it_was_written_in_both_forms(found: Root) -> None:
    regular, replaceable = found.to_templates(NOW)
    assert (regular.kind, replaceable.kind) == (APP_DATA, ROOT_REPLACEABLE)
    assert parse_root(signed(regular)) == parse_root(signed(replaceable)) == found


def bent(name: str, *values: tuple[str, ...], kind: int = APP_DATA) -> Event:
    """A root with other tags of that name: these, one after the other, or none."""
    tags: list[Tag] = [tag for tag in event_of(root(9, 5)).tags if tag[0] != name]
    return signed(make_template(kind, tags=[*tags, *((name, *value) for value in values)], created_at=NOW))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("t", []), ("t", [("other",)]), ("t", [(LEAVES_NAME,)]),
        ("alg", []), ("alg", [("sha256",)]),
        ("log", []), ("log", [("AA" * 32,)]), ("log", [("aa" * 31,)]), ("log", [("aa" * 32 + "\n",)]),
        ("root", []), ("root", [("aa",)]), ("root", [("AA" * 32,)]),
        ("size", []), ("size", [("",)]), ("size", [("-1",)]), ("size", [("09",)]), ("size", [("1.0",)]),
        ("size", [(str(SIZE_MAX + 1),)]), ("size", [("٩",)]), ("size", [("9" * 5000,)]), ("size", [("9\n",)]),
        ("prev", [("aa" * 32,)]), ("prev", [("aa" * 32, "5", "")]), ("prev", [("aa" * 32, "5")] * 2),
        ("prev", [("aa", "5")]), ("prev", [("aa" * 32, "five")]), ("prev", [()]),
        ("consistency", [("aa",)]), ("consistency", [("AA" * 32,)]), ("consistency", [(), ()]),
        ("expiration", [(str(NOW + 60),)]),
    ],
)  # fmt: skip
def test_a_root_of_another_form_is_refused(name: str, values: list[tuple[str, ...]]) -> None:
    with pytest.raises(InvalidReceipt):
        parse_root(bent(name, *values))


def test_each_form_of_a_root_has_its_kind_and_its_tag() -> None:
    for kind, name in ((ROOT_REPLACEABLE, "t"), (APP_DATA, "d"), (1, "t")):
        with pytest.raises(InvalidReceipt, match="not a root"):
            parse_root(
                signed(make_template(kind, tags=[(name, ROOT_NAME), ("alg", ALGORITHM)], created_at=NOW))
            )


def test_a_root_without_relays_or_with_many_is_read() -> None:
    assert parse_root(bent("leaves")).relays == ()
    assert len(parse_root(bent("leaves", ("wss://relay.test",) * 99)).relays) == RELAYS_MAX


@pytest.mark.parametrize("size", range(1, 13))
def test_a_root_is_consistent_with_all_before_it_and_with_no_other(size: int) -> None:
    assert root(size).is_consistent
    assert root(size, 0).is_consistent
    other = [*LEAVES[: size - 1], "other", *LEAVES[size:]]
    for before in range(1, size + 1):
        honest = root(size, before)
        assert honest.is_consistent
        forged = Root(LOG, honest.head, head_of(other[:before]), honest.consistency)
        assert forged.is_consistent == (before < size)
        assert not Root(LOG, head_of(other[:size]), honest.previous, honest.consistency).is_consistent
        assert not Root(LOG, honest.head, honest.previous, (*honest.consistency, "aa" * 32)).is_consistent
        assert not Root(LOG, honest.head, None, ("aa" * 32,)).is_consistent
        if before < size:
            assert not Root(
                LOG, honest.previous or honest.head, honest.head, honest.consistency
            ).is_consistent


# Forks -----------------------------------------------------------------------------------------------------------


def contradictions(*found: Root) -> list[tuple[int, set[str]]]:
    told = find_contradictions((event_of(one), one) for one in found)
    return [(one.size, {one.first.id, one.second.id}) for one in told]


def test_an_honest_log_contradicts_itself_nowhere() -> None:
    assert contradictions(root(3), root(5, 3), root(9, 5), root(9, 3), root(12, 9)) == []


def test_two_roots_of_one_size_are_a_fork() -> None:
    other = [*LEAVES[:4], "other", *LEAVES[5:]]
    ours, theirs = root(5, 3), root(5, 3, other)
    assert contradictions(root(3), ours, theirs) == [(5, {event_of(ours).id, event_of(theirs).id})]


def test_another_root_before_is_a_fork() -> None:
    other = [*LEAVES[:4], "other", *LEAVES[5:]]
    ours, theirs = root(5), root(9, 5, other)
    assert contradictions(ours, theirs) == [(5, {event_of(ours).id, event_of(theirs).id})]


def test_two_logs_do_not_contradict_each_other() -> None:
    other = Root("ab" * 32, Head(5, "cd" * 32))
    assert contradictions(root(5), other) == []


# Pages -----------------------------------------------------------------------------------------------------------


@given(st.lists(lines, max_size=20), st.integers(0, SIZE_MAX))
def test_a_page_is_read_as_it_was_written(leaves: list[str], first: int) -> None:
    page = Page(LOG, first, tuple(leaves))
    assert parse_page(signed(page.to_template(NOW))) == page


@pytest.mark.parametrize(
    ("tags", "content"),
    [
        ([], "a\nb"), ([("t", ROOT_NAME)], "a\nb"),
        ([("t", LEAVES_NAME), ("log", LOG)], "a\nb"), ([("t", LEAVES_NAME), ("range", "0", "2")], "a\nb"),
        ([("t", LEAVES_NAME), ("log", "AA" * 32), ("range", "0", "2")], "a\nb"),
        *(([("t", LEAVES_NAME), ("log", LOG), ("range", *told)], "a\nb")
          for told in (("0", "3"), ("0", "1"), ("0", "02"), ("-1", "2"), ("01", "2"), ("x", "2"), ("0",), ("0", "2", "2"))),
        ([("t", LEAVES_NAME), ("log", LOG), ("range", "0", "1")], ""),
        ([("t", LEAVES_NAME), ("log", LOG), ("range", "0", "2"), ("range", "0", "2")], "a\nb"),
    ],
)  # fmt: skip
def test_a_page_of_another_form_is_refused(tags: list[tuple[str, ...]], content: str) -> None:
    with pytest.raises(InvalidReceipt):
        parse_page(signed(make_template(APP_DATA, content=content, tags=tags, created_at=NOW)))
    with pytest.raises(InvalidReceipt):
        parse_page(signed(make_template(1, tags=[("t", LEAVES_NAME)], created_at=NOW)))


@given(st.lists(st.integers(1, PAGE_BYTES_MAX), max_size=30), st.integers(0, 100))
def test_pages_have_all_leaves_in_order_and_fit(sizes: list[int], first: int) -> None:
    leaves = ["é" * (size // 2) or "x" for size in sizes]
    pages = make_pages(LOG, first, leaves)
    assert [leaf for page in pages for leaf in page.leaves] == leaves
    place = first
    for page in pages:
        assert (page.log, page.first) == (LOG, place)
        place += len(page.leaves)
        assert len("\n".join(page.leaves).encode()) <= PAGE_BYTES_MAX


def test_leaves_are_gathered_from_pages_in_any_order() -> None:
    pages = [
        Page(LOG, 0, tuple(LEAVES[:5])),
        Page(LOG, 5, tuple(LEAVES[5:9])),
        Page(LOG, 3, tuple(LEAVES[3:])),
    ]
    for order in permutations(pages):
        for size in range(1, 13):
            assert find_leaves(order, head_of(LEAVES[:size]), frozenset()) == tuple(LEAVES[:size])


def test_leaves_that_are_missing_or_others_are_not_gathered() -> None:
    head = head_of(LEAVES)
    holes = [Page(LOG, 0, tuple(LEAVES[:5])), Page(LOG, 6, tuple(LEAVES[6:]))]
    assert find_leaves(holes, head, frozenset()) is None
    assert find_leaves([], head, frozenset()) is None
    assert find_leaves([Page(LOG, 0, tuple(LEAVES[:-1]))], head, frozenset()) is None
    assert find_leaves([Page(LOG, 0, (*LEAVES[:-1], "other"))], head, frozenset()) is None
    assert find_leaves([Page(LOG, 0, (*LEAVES, "not published yet"))], head, frozenset()) == tuple(LEAVES)


def test_what_was_taken_back_by_a_restore_does_not_hide_the_log() -> None:
    """Leaves that went out, but were under no root when the agent was brought back from a copy."""
    pages = [
        Page(LOG, 0, tuple(LEAVES[:5])),
        Page(LOG, 5, tuple(LEAVES[5:])),
        Page(LOG, 5, ("lost", "lost too")),
    ]
    for order in permutations(pages):
        assert find_leaves(order, head_of(LEAVES), frozenset()) == tuple(LEAVES)
