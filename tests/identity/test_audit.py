"""Each adversary of an audit is found, or changes nothing; and the order of what relays show never matters."""

import random
import time
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from identity.audit import Kind, Settlement, Verdict, audit, candidates
from identity.event import Event, EventTemplate, make_template, sign_event
from identity.keys import SecretKey
from identity.receipts import KeyLeaf, Outcome, Preimage, ReviewLeaf, parse_review, write_leaf
from identity.roots import DETOURS_MAX, Page, Root, find_leaves, make_pages
from identity.rotation import Rotation, commitment
from tests.identity.receipts_made import (
    AGENT,
    DAY,
    NEXT,
    NOW,
    STRANGER,
    World,
    an_id,
    answer,
    customer,
    honest,
    job,
    kinds,
    offer,
    only,
    payment_hash,
    point,
    prefix_head,
    preimage,
    prove_growth,
    review,
    settled,
    the,
    verdicts,
)

# -- what an honest agent's customers say


def test_an_honest_log_has_its_receipts_and_no_findings() -> None:
    world = honest(3)
    found = world.judge()
    assert found.findings == ()
    assert found.head == prefix_head(world.leaves)
    assert found.is_whole
    assert verdicts(found) == [Verdict.SETTLED, Verdict.SETTLED, Verdict.SILENT]
    assert [receipt.leaf_number for receipt in found.receipts] == [1, 2, 3]
    first = found.receipts[0]
    assert first.answer == "thanks"
    assert first.answer_number == 4
    assert "said nothing" in found.receipts[2].reason


def test_a_payment_that_no_mint_was_asked_about_is_not_settled() -> None:
    world = honest(1)
    world.tell(review(0), settled(0, asked=()))
    assert only(world.judge()).verdict is Verdict.UNASKED


def test_an_invoice_is_settled_by_its_preimage_alone() -> None:
    found = Settlement(frozenset({payment_hash(0)}), 5000, hash=payment_hash(0))
    world = World()
    world.log(job(0, lock="", hash=payment_hash(0)))
    world.publish()
    world.tell(review(0, evidence=preimage(0)), found)
    signed = offer(1, bolt11=preimage(1).bolt11.upper())
    of_offer = Settlement(frozenset({payment_hash(1)}), 5000, hash=payment_hash(1))
    world.tell(review(1, evidence=preimage(1), offer=signed), of_offer)
    assert verdicts(world.judge()) == [Verdict.SETTLED, Verdict.SETTLED]


def test_the_amount_of_an_invoice_that_only_the_log_names_is_the_logs() -> None:
    """Whoever knows a preimage can make an invoice of any amount for it."""
    world = World()
    world.log(job(0, lock="", hash=payment_hash(0)))
    world.publish()
    made_up = Settlement(frozenset({payment_hash(0)}), 9_000_000, hash=payment_hash(0))
    world.tell(review(0, evidence=preimage(0), amount_msat=9_000_000), made_up)
    receipt = only(world.judge())
    assert (receipt.verdict, receipt.paid_msat) == (Verdict.SETTLED, 5000)


def test_a_log_with_too_low_an_amount_is_rid_of_no_review() -> None:
    world = World()
    world.log(job(0, lock="", hash=payment_hash(0), amount_msat=4999), job(1, amount_msat=4999))
    world.publish()
    found = Settlement(frozenset({payment_hash(0)}), 5000, hash=payment_hash(0))
    signed = offer(0, bolt11=preimage(0).bolt11)
    world.tell(review(0, rating=1, evidence=preimage(0), offer=signed), found)
    world.tell(review(1, rating=1), settled(1))
    assert [(one.verdict, one.paid_msat) for one in world.judge().receipts] == [(Verdict.SETTLED, 5000)] * 2


def test_a_log_that_calls_the_money_lost_is_rid_of_no_review() -> None:
    world = World()
    world.log(job(0, outcome=Outcome.LOST))
    world.publish()
    world.tell(review(0, rating=1), settled(0))
    assert only(world.judge()).verdict is Verdict.SETTLED


@pytest.mark.parametrize("other", [{"kind": 5051}, {"result_id": an_id("another")}])
def test_a_review_of_another_kind_or_result_than_the_log_has(other: dict[str, Any]) -> None:
    world = World()
    world.log(job(0, result=an_id("result")), job(1, lock="", hash=payment_hash(1), result=an_id("result")))
    world.publish()
    found = Settlement(frozenset({payment_hash(1)}), 5000, hash=payment_hash(1))
    world.tell(review(0, **other), settled(0))
    world.tell(review(1, evidence=preimage(1), **other), found)
    receipts = world.judge().receipts
    assert [one.verdict for one in receipts] == [Verdict.NO_PAYMENT] * 2
    assert "another kind or result" in receipts[0].reason


@pytest.mark.parametrize("other", [{"kind": 5051}, {"result_id": an_id("another")}])
def test_a_log_of_another_kind_or_result_is_rid_of_no_review_with_an_offer(other: dict[str, Any]) -> None:
    world = World()
    world.log(job(0, result=an_id("result")))
    world.publish()
    world.tell(review(0, rating=1, offer=offer(0), **other), settled(0))
    assert only(world.judge()).verdict is Verdict.SETTLED


@pytest.mark.parametrize(
    ("told", "found", "why"),
    [
        ({"evidence": None}, settled(0), "shows no payment"),
        ({}, None, "nobody has looked"),
        ({}, settled(0, doubt="the mint says that these coins are not spent"), "not spent"),
        ({}, settled(0, lock=point("another")), "paid for something else"),
        ({}, settled(0, lock=""), "paid for something else"),
        ({"amount_msat": 6000}, settled(0), "6000 msat are claimed"),
        ({"evidence": preimage(0)}, settled(0, hash=payment_hash(0)), "paid for something else"),
    ],
)
def test_no_settled_payment_matches(told: dict[str, Any], found: Settlement | None, why: str) -> None:
    world = honest(1)
    world.tell(review(0, **told), found)
    receipt = only(world.judge())
    assert receipt.verdict is Verdict.NO_PAYMENT
    assert why in receipt.reason


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        (preimage(2), Settlement(frozenset({payment_hash(2)}), 5000, hash=payment_hash(2))),
        (
            replace(preimage(1), preimage=an_id("made up")),
            Settlement(frozenset(), 5000, hash=payment_hash(1)),
        ),
    ],
    ids=["another invoice", "no preimage of it"],
)
def test_an_invoice_that_the_offer_does_not_name_or_that_was_not_paid(
    shown: Preimage, found: Settlement
) -> None:
    world = World()
    world.tell(review(1, evidence=shown, offer=offer(1, bolt11=preimage(1).bolt11)), found)
    receipt = only(world.judge())
    assert receipt.verdict is Verdict.NO_PAYMENT
    assert "paid for something else" in receipt.reason


@pytest.mark.parametrize("outcome", [Outcome.REFUNDED, Outcome.RETURNED, Outcome.SENT_BACK])
def test_money_that_the_agent_did_not_keep_settles_nothing(outcome: Outcome) -> None:
    world = World()
    world.log(job(0, outcome=outcome, amount_msat=0))
    world.publish()
    world.tell(review(0), settled(0))
    receipt = only(world.judge())
    assert receipt.verdict is Verdict.NO_PAYMENT
    assert "does not have the money" in receipt.reason


def test_the_agents_own_review() -> None:
    world = World()
    world.log(job(0, customer=AGENT.public_key))
    world.publish()
    world.tell(review(0, by=AGENT), settled(0))
    found = world.judge()
    assert verdicts(found) == [Verdict.SELF_REVIEW, Verdict.SILENT]
    assert the(found, Kind.SELF_DEALING).is_proven


def test_a_key_that_never_paid_and_one_that_paid_for_something_else() -> None:
    world = honest(2)
    world.tell(review(1, by=STRANGER), settled(1))
    world.tell(review(1, by=customer(0), rating=1), settled(1))
    found = world.judge()
    of_job = {receipt.customer: receipt for receipt in found.receipts if receipt.leaf_number == 2}
    assert of_job[STRANGER.public_key].verdict is Verdict.NEVER_PAID
    assert of_job[customer(0).public_key].verdict is Verdict.NO_PAYMENT
    assert "other jobs" in of_job[customer(0).public_key].reason
    assert of_job[customer(1).public_key].verdict is Verdict.SILENT  # strangers do not speak for it


def test_the_first_review_of_a_job_counts_whatever_a_later_one_is_dated() -> None:
    world = honest(2)
    world.tell(review(0, rating=1, at=NOW - 30 * DAY), settled(0))
    world.tell(review(0, rating=2, at=NOW - DAY), settled(0))
    receipts = [receipt for receipt in world.judge().receipts if receipt.leaf_number == 1]
    assert [one.verdict for one in receipts] == [
        Verdict.SETTLED,
        Verdict.SECOND_REVIEW,
        Verdict.SECOND_REVIEW,
    ]
    assert [one.review.rating for one in receipts if one.review] == [5, 1, 2]


def test_before_the_agent_answers_the_earlier_review_counts() -> None:
    world = honest(1)
    for rating in (1, 2, 3):
        world.tell(review(0, rating=rating, at=NOW - 600 - rating), settled(0))
    receipts = world.judge().receipts
    assert [receipt.review.rating for receipt in receipts if receipt.review] == [3, 2, 1]
    assert [receipt.verdict for receipt in receipts][1:] == [Verdict.SECOND_REVIEW] * 2


def test_a_review_without_evidence_does_not_take_the_place_of_one_with_it() -> None:
    world = honest(1)
    world.tell(review(0, rating=1, at=NOW - 700, evidence=None))
    world.tell(review(0, rating=4, at=NOW - 600), settled(0))
    assert verdicts(world.judge()) == [Verdict.NO_PAYMENT, Verdict.SETTLED]


# -- dropped, misnamed


def test_a_job_that_the_log_does_not_have_is_found_by_the_offer_in_its_review() -> None:
    world = honest(1)
    bad = world.tell(review(7, rating=1, offer=offer(7)), settled(7))
    found = world.judge()
    assert the(found, Kind.DROPPED).events == (bad,)
    assert [(one.verdict, one.job) for one in found.receipts][1:] == [(Verdict.SETTLED, None)]
    young = world.judge(now=bad.created_at + DAY)
    assert Kind.DROPPED not in kinds(young)


@pytest.mark.parametrize(
    "made_up",
    [
        offer(7, by=STRANGER),
        offer(7, request=an_id("another")),
        offer(7, customer=STRANGER.public_key),
        structs.replace(offer(7), sig="ab" * 64),
    ],
)
def test_an_offer_that_the_agent_did_not_sign_for_this_names_nobody(made_up: Event) -> None:
    world = honest(1)
    world.tell(review(7, rating=1, offer=made_up), settled(7))
    found = world.judge()
    assert Verdict.NEVER_PAID in verdicts(found)
    assert found.findings == ()


def test_an_offer_of_another_lock_settles_nothing() -> None:
    world = honest(1)
    world.tell(review(7, offer=offer(7, lock="another")), settled(7))
    assert verdicts(world.judge()) == [Verdict.SILENT, Verdict.NO_PAYMENT]


def test_a_settled_review_that_the_log_does_not_name() -> None:
    world = honest(1)
    bad = world.tell(review(0, rating=1), settled(0))
    found = world.judge()
    assert the(found, Kind.UNANSWERED).events == (bad,)
    assert not the(found, Kind.UNANSWERED).is_proven
    assert only(found).verdict is Verdict.SETTLED
    assert Kind.UNANSWERED not in kinds(world.judge(now=bad.created_at + DAY))


def test_the_time_to_answer_begins_when_the_job_has_ended() -> None:
    world = World()
    world.log(job(0, at=NOW - DAY // 2))
    world.publish(NOW - 60)
    world.tell(review(0, at=NOW - DAY - 60), settled(0))
    assert world.judge().findings == ()


def test_a_log_that_gives_a_job_to_another_customer_contradicts_its_offer() -> None:
    world = World()
    puppet = customer(99)
    world.log(job(0, customer=puppet.public_key, lock="puppet"))
    good = world.tell(
        review(0, by=puppet), settled(0, lock=point("puppet"), marks=frozenset({an_id("Y puppet")}))
    )
    world.log(answer(good, 0))
    world.publish()
    bad = world.tell(review(0, rating=1, offer=offer(0)), settled(0))
    found = world.judge()
    assert the(found, Kind.CONTRADICTION).is_proven
    [counted] = [receipt for receipt in found.receipts if receipt.verdict is Verdict.SETTLED]
    assert counted.review_event == bad


# -- replayed


def test_one_request_in_the_log_twice() -> None:
    world = honest(2)
    world.log(job(0, amount_msat=9_000_000))
    world.publish()
    found = world.judge()
    assert "leaf 4 is of the same job as leaf 1" in the(found, Kind.DOUBLE_JOB).text
    assert len(found.receipts) == 2
    assert found.receipts[0].job is not None
    assert found.receipts[0].job.amount_msat == 5000


def test_a_review_in_the_log_twice() -> None:
    world = honest(2)
    world.log(ReviewLeaf(review=review(0).id, request=an_id("request 0"), at=NOW - 8 * DAY, answer="no"))
    world.publish()
    found = world.judge()
    assert kinds(found) == [Kind.DOUBLE_ANSWER]
    assert found.receipts[0].answer == "thanks"


def test_a_review_that_was_seen_first_and_answered_later() -> None:
    world = World()
    world.log(job(0))
    true = world.tell(review(0), settled(0))
    world.log(answer(true, 0))
    world.log(answer(true, 0, answer="mended"))
    world.publish()
    found = world.judge()
    assert found.findings == ()
    assert (found.receipts[0].answer, found.receipts[0].answer_number) == ("mended", 2)
    world.log(answer(true, 0))  # and it was seen once
    world.publish()
    assert kinds(world.judge()) == [Kind.DOUBLE_ANSWER]


@pytest.mark.parametrize("ratings", [(5, 5), (1, 5), (5, 1)])
def test_one_payment_in_the_reviews_of_two_jobs(ratings: tuple[int, int]) -> None:
    """An agent that moves a customer's coins to a puppet's job keeps the worse one of the two words."""
    world = World()
    world.log(job(0), job(1, lock="lock 0"))
    world.publish()
    first = world.tell(review(0, rating=ratings[0]), settled(0))
    second = world.tell(review(1, rating=ratings[1]), settled(0))
    found = world.judge()
    expected = [Verdict.SETTLED, Verdict.NO_PAYMENT]
    assert verdicts(found) == (expected[::-1] if ratings == (5, 1) else expected)
    assert the(found, Kind.DOUBLE_PAYMENT).events == (first, second)
    assert the(found, Kind.DOUBLE_LOCK).is_proven


def test_one_payment_in_the_review_of_a_dropped_job_and_of_a_puppets() -> None:
    world = World()
    world.log(job(0, lock="lock 7"))
    world.publish()
    world.tell(review(0), settled(7))
    world.tell(review(7, rating=1, offer=offer(7)), settled(7))
    assert verdicts(world.judge()) == [Verdict.NO_PAYMENT, Verdict.SETTLED]


def test_one_invoice_in_the_log_for_two_jobs() -> None:
    world = World()
    world.log(*(job(number, lock="", hash=payment_hash(0)) for number in range(2)))
    world.publish()
    assert (
        "leaf 2 names the lock or the invoice that leaf 1 does" in the(world.judge(), Kind.DOUBLE_LOCK).text
    )


def test_a_second_customer_of_one_job_that_the_agent_signed_for_as_well() -> None:
    world = World()
    world.log(job(0))
    world.publish()
    puppet = customer(99)
    world.tell(review(0, by=puppet, offer=offer(0, customer=puppet.public_key)), settled(0))
    bad = world.tell(review(0, rating=1), settled(0))
    elsewhere = settled(0, asked=(), marks=frozenset({an_id("elsewhere")}))
    world.tell(
        review(0, by=customer(98), rating=1, offer=offer(0, customer=customer(98).public_key)), elsewhere
    )
    found = world.judge()
    assert [one.review_event for one in found.receipts if one.verdict is Verdict.SETTLED] == [bad]
    assert Kind.CONTRADICTION in kinds(found)


def test_coins_of_another_agents_job_pay_for_nothing() -> None:
    """Its review is public; a log can repeat its lock, and so can an offer: the key itself never signed that."""
    world = World()
    theirs = job(0, by=STRANGER)
    mine = job(1, request=an_id("request 2"))
    world.log(theirs, structs.replace(mine, request=an_id("request 1")), job(3, lock_sig=""))
    world.publish()
    copied = structs.replace(offer(7), tags=offer(7, by=STRANGER).tags)
    told = {"kind": 7000, "content": "", "tags": copied.tags, "created_at": copied.created_at}
    world.tell(review(7, offer=sign_event(EventTemplate(**told), AGENT)), settled(7))
    for number in (0, 1, 3):
        world.tell(review(number), settled(number))
    found = world.judge()
    assert verdicts(found) == [Verdict.NO_PAYMENT] * 4
    assert all("paid for something else" in one.reason for one in found.receipts)


# -- whom a mint is asked about


def test_only_reviews_that_can_count_are_candidates() -> None:
    world = honest(2)
    mine = [event for event in world.events if event.kind == 1985]
    many = [world.tell(review(0, rating=1, at=NOW - 500 + number)) for number in range(9)]
    dropped = world.tell(review(7, rating=1, offer=offer(7)))
    world.tell(review(7))
    world.tell(review(0, by=STRANGER))
    world.tell(review(0, by=AGENT))
    world.tell(review(1, evidence=None))
    world.tell(review(1, at=NOW + 901))
    found = candidates(AGENT.public_key, world.events[::-1], NOW)
    assert [event for event, _ in found] == [*mine, *many[:3], dropped]
    assert all(parse_review(event) == told for event, told in found)


def test_a_review_copied_by_another_key_pays_for_nothing() -> None:
    world = honest(2)
    copied = parse_review(review(0)).evidence
    world.tell(review(1, by=STRANGER, evidence=copied), settled(0))
    world.tell(review(1, evidence=copied), settled(0))
    of_job = [receipt.verdict for receipt in world.judge().receipts if receipt.leaf_number == 2]
    assert sorted(of_job) == [Verdict.NEVER_PAID, Verdict.NO_PAYMENT]


# -- forged answers


@pytest.mark.parametrize(
    "made_up",
    [
        review(1, by=STRANGER),
        review(1, provider=STRANGER.public_key),
        review(0, request_id=an_id("request 1"), by=customer(0)),
        sign_event(
            make_template(1985, tags=[("L", "tradepost.review")], created_at=NOW - 9 * DAY), customer(1)
        ),
        review(1, by=AGENT),
    ],
)
def test_an_answer_to_what_is_no_review_of_that_job(made_up: Event) -> None:
    world = honest(2)
    world.tell(made_up, settled(1))
    world.log(answer(made_up, 1))
    world.publish()
    found = world.judge()
    assert made_up in the(found, Kind.FALSE_ANSWER).events
    assert [one.verdict for one in found.receipts if one.leaf_number == 1] == [Verdict.SETTLED]
    assert Verdict.SETTLED not in [one.verdict for one in found.receipts if one.leaf_number == 2]


def test_an_answer_that_names_another_job_than_its_review() -> None:
    world = honest(2)
    true = world.tell(review(1), settled(1))
    world.log(answer(true, 0))
    world.publish()
    found = world.judge()
    assert kinds(found) == [Kind.FALSE_ANSWER, Kind.UNANSWERED]
    assert found.receipts[1].answer_number is None


def test_reviews_that_the_log_names_and_nobody_shows() -> None:
    world = honest(3)
    world.events = [event for event in world.events if event.kind != 1985]
    assert the(world.judge(), Kind.MISSING).text == "reviews that the log names are not shown: leaf 4, 5"


# -- forks


def forked() -> tuple[World, World]:
    """Two logs of one agent, with the same beginning."""
    worlds = honest(2), honest(2)
    for number, world in enumerate(worlds):
        world.log(job(10 + number))
    return worlds


def test_two_roots_of_one_size() -> None:
    one, other = forked()
    one.publish()
    other.publish()
    one.events += other.events
    found = one.judge()
    fork = the(found, Kind.FORK)
    assert fork.is_proven
    assert fork.text == "two roots over 5 leaves"
    assert len(fork.events) == 2


def test_two_roots_of_different_sizes_whose_leaves_differ() -> None:
    one, other = forked()
    other.log(job(12))
    one.publish()
    other.publish()
    one.events += other.events
    found = one.judge()
    assert {finding.text for finding in found.findings if finding.kind is Kind.FORK} == {
        "the log does not begin with the 5 leaves that a smaller root stands for"
    }
    assert found.head == prefix_head(other.leaves)


def test_history_that_was_rewritten() -> None:
    world = honest(3)
    published = world.published
    assert published is not None
    world.leaves[1] = write_leaf(job(0, disputed=False, amount_msat=9000))
    world.log(job(5))
    head = prefix_head(world.leaves)
    root = Root(AGENT.public_key, head, published, prove_growth(world.leaves, published.size))
    pages = make_pages(AGENT.public_key, 0, world.leaves)
    templates = [*root.to_templates(NOW - DAY), *(page.to_template(NOW - DAY) for page in pages)]
    world.events += [sign_event(template, AGENT) for template in templates]
    found = world.judge()
    forks = {finding.text for finding in found.findings if finding.kind is Kind.FORK}
    assert "the root over 7 leaves has no proof that it grew from the one before it" in forks
    assert "the log does not begin with the 6 leaves that a smaller root stands for" in forks


def test_a_root_without_proof_is_found_without_any_leaves() -> None:
    world = honest(1)
    published = world.published
    assert published is not None
    world.log(job(5))
    root = Root(AGENT.public_key, prefix_head(world.leaves), published, ())
    roots = [sign_event(template, AGENT) for template in root.to_templates(NOW - DAY)]
    found = audit(AGENT.public_key, roots, {}, NOW)
    assert Kind.FORK in kinds(found)
    assert found.head is None


# -- roots that do not count, or are held back


def test_a_root_by_another_key_is_ignored() -> None:
    world = honest(2)
    before = world.judge()
    world.log(*(job(20 + number) for number in range(3)))
    world.publish(by=STRANGER)
    found = world.judge()
    assert kinds(found) == [Kind.FOREIGN_KEY]
    assert replace(found, findings=()) == before


def test_roots_and_pages_of_another_log_do_not_matter() -> None:
    world = honest(2)
    before = world.judge()
    other = Root(STRANGER.public_key, prefix_head(["x"] * 99))
    page = Page(STRANGER.public_key, 0, ("x",) * 99)
    templates = [*other.to_templates(NOW), page.to_template(NOW)]
    world.events += [sign_event(template, AGENT) for template in templates]
    assert world.judge() == before


def test_thousands_of_foreign_roots_are_one_finding() -> None:
    world = honest(1)
    foreign = Root(AGENT.public_key, prefix_head(["x"]))
    for number in range(50):
        world.events += [sign_event(one, STRANGER) for one in foreign.to_templates(NOW - number)]
    assert len(the(world.judge(), Kind.FOREIGN_KEY).events) == 20


@pytest.mark.parametrize("at", [NOW - 7 * DAY, NOW - 8 * DAY], ids=["equal", "earlier"])
def test_the_newest_root_is_the_largest_whatever_its_date(at: int) -> None:
    world = honest(2)
    world.log(job(6))
    world.publish(at)
    found = world.judge()
    assert found.head == prefix_head(world.leaves)
    assert found.findings == ()


def test_a_relay_that_hides_the_newest_root_from_who_knows_it() -> None:
    world = honest(2)
    early = list(world.events)
    world.log(job(6))
    known = world.publish()[0]
    found = audit(AGENT.public_key, early, world.settlements, NOW, known)
    assert (
        "over 5 leaves was seen before, and none over more than 4 is shown"
        in the(found, Kind.HIDDEN_ROOT).text
    )
    assert found.head is not None
    assert found.head.size == 4
    assert not found.is_whole
    assert audit(AGENT.public_key, world.events, world.settlements, NOW, known).findings == ()


def test_a_known_root_that_the_log_no_longer_grew_from() -> None:
    one, other = forked()
    known = other.publish()[0]
    one.publish()
    found = audit(AGENT.public_key, one.events, one.settlements, NOW, known)
    assert known in the(found, Kind.FORK).events


def test_a_known_root_of_another_log_says_nothing() -> None:
    other = sign_event(Root(STRANGER.public_key, prefix_head(["x"] * 99)).to_templates(NOW)[0], STRANGER)
    assert honest(2).judge(known=other).findings == ()
    assert honest(2).judge(known=review(0)).findings == ()


@pytest.mark.parametrize("hidden", [78, 30078])
def test_a_relay_that_shows_one_form_of_the_newest_root(hidden: int) -> None:
    world = honest(1)
    world.log(job(6))
    for event in world.publish():
        if event.kind == hidden and not event.content:
            world.events.remove(event)
    finding = the(world.judge(), Kind.HIDDEN_ROOT)
    assert f"as kind {hidden} none over more than" in finding.text
    assert not finding.is_proven


def test_missing_leaves() -> None:
    world = honest(2)
    world.log(job(6))
    world.publish()
    world.lose_pages()
    found = world.judge()
    assert found.head is None
    assert the(found, Kind.MISSING).text.startswith(
        "of the 5 leaves of the newest root, those under a root over 0"
    )


def test_leaves_missing_at_the_end_leave_the_root_before() -> None:
    world = honest(2)
    world.log(job(6))
    last = [event for event in world.publish() if event.content]
    world.events = [event for event in world.events if event not in last]
    world.tell(review(6, rating=1, offer=offer(6)), settled(6))
    found = world.judge()
    assert Verdict.SETTLED in verdicts(found)
    assert found.head is not None
    assert found.head.size == 4
    assert Kind.DROPPED not in kinds(found)  # it may be in what is missing
    assert Kind.MISSING in kinds(found)


def test_no_root_at_all() -> None:
    world = World()
    world.tell(review(7, offer=offer(7)), settled(7))
    found = world.judge()
    assert kinds(found) == [Kind.DROPPED, Kind.MISSING]
    assert found.head is None
    assert only(found).verdict is Verdict.SETTLED


def test_malformed_leaves_roots_and_pages() -> None:
    world = honest(2)
    world.log("no leaf", '{"type":"job"}')
    world.publish()
    for tag in (("t", "tradepost:root"), ("t", "tradepost:leaves")):
        world.events.append(sign_event(make_template(78, tags=[tag], created_at=NOW), AGENT))
        world.events.append(sign_event(make_template(78, tags=[tag], created_at=NOW), STRANGER))
    found = world.judge()
    assert sorted(one.text for one in found.findings) == [
        "events of the agent that cannot be read (2)", "these leaves cannot be read: leaf 4, 5",
    ]  # fmt: skip
    assert found.leaves[4:] == (None, None)
    assert len(found.receipts) == 2


def test_pages_of_another_key_do_not_matter() -> None:
    world = honest(2)
    before = world.judge()
    world.lose_pages()
    pages = [Page(AGENT.public_key, number, (leaf,)) for number, leaf in enumerate(world.leaves)]
    world.events += [sign_event(page.to_template(NOW), AGENT) for page in pages]
    for number in range(2 * DETOURS_MAX):
        garbage = Page(AGENT.public_key, 0, (str(number),) * 3)
        world.events.append(sign_event(garbage.to_template(NOW), STRANGER))
    assert world.judge() == before


def test_leaves_out_of_pages_that_overlap() -> None:
    leaves = ("a", "b", "c", "d")
    pages = [
        Page("", 0, leaves[:2]),
        Page("", 1, leaves[1:3]),
        Page("", 0, leaves[:3]),
        Page("", 2, leaves[2:]),
    ]
    assert find_leaves(pages[:2] + pages[3:], prefix_head(leaves), frozenset()) == leaves
    assert find_leaves([pages[2], pages[3]], prefix_head(leaves), frozenset()) == leaves
    assert find_leaves([pages[2], pages[3]], prefix_head(leaves[:3]), frozenset()) == leaves[:3]
    assert find_leaves(pages[:2], prefix_head(leaves), frozenset()) is None
    assert find_leaves([pages[0], Page("", 3, leaves[3:])], prefix_head(leaves), frozenset()) is None


def test_leaves_out_of_pages_that_contradict_each_other() -> None:
    leaves = ("a", "b", "c", "d")
    true = [Page("", 0, leaves[:2]), Page("", 2, leaves[2:])]
    astray = Page("", 0, ("a", "b", "x"))
    assert find_leaves([*true, astray], prefix_head(leaves), frozenset()) == leaves
    many = [Page("", 0, ("a", "b", str(number))) for number in range(2 * DETOURS_MAX)]
    assert find_leaves([*true, *many], prefix_head(leaves), frozenset()) is None
    assert find_leaves([*true, *many], prefix_head(leaves), frozenset({prefix_head(leaves[:2])})) == leaves


# -- dates


def test_a_root_from_the_future() -> None:
    world = honest(1)
    world.publish(at=NOW + 901)
    assert kinds(world.judge()) == [Kind.FUTURE]
    assert world.judge(now=NOW + 1).findings == ()


def test_a_review_from_the_future_does_not_count_yet() -> None:
    world = honest(1)
    event = world.tell(review(0, at=NOW + 901), settled(0))
    found = world.judge()
    assert the(found, Kind.FUTURE).events == (event,)
    assert verdicts(found) == [Verdict.SILENT]
    assert verdicts(world.judge(now=NOW + 1)) == [Verdict.SETTLED]


def test_a_review_from_long_before_its_job() -> None:
    world = honest(1)
    event = world.tell(review(0, at=NOW - 11 * DAY - 10), settled(0))
    assert event in the(world.judge(), Kind.FUTURE).events


def test_a_leaf_dated_after_the_root_over_it() -> None:
    world = honest(1)
    world.log(job(6, at=NOW - DAY))
    world.publish()
    assert the(world.judge(), Kind.FUTURE).text == "these leaves are dated after the root over them: leaf 2"


def test_a_leaf_dated_after_an_older_and_larger_root_over_it() -> None:
    world = honest(1)
    world.log(job(6, at=NOW - 2 * DAY))
    world.publish(NOW)
    world.log(job(7))
    world.publish(NOW - 5 * DAY)
    assert the(world.judge(), Kind.FUTURE).text == "these leaves are dated after the root over them: leaf 2"


# -- keys


def handed_on(world: World, at: int = NOW - 6 * DAY) -> Event:
    """The log goes over from the agent's key to the next, as both of them say."""
    last = SecretKey(b"\x0a" * 32)
    rotation = Rotation(
        AGENT.public_key, AGENT.public_key, NEXT.public_key, prefix_head(world.leaves),
        commitment(last.public_key), at, by_both=True,
    )  # fmt: skip
    event = sign_event(rotation.countersigned(sign_event(rotation.to_template(), NEXT)), AGENT)
    world.log(
        KeyLeaf(key=NEXT.public_key, next=rotation.next, at=at, rotation=event.to_json().decode()),
        job(30, at=at),
    )
    world.events.append(event)
    world.publish(at=at + 60, by=NEXT)
    return event


def test_a_log_that_was_handed_on_is_read_to_its_end() -> None:
    world = honest(2)
    handed_on(world)
    found = world.judge()
    assert found.findings == ()
    assert found.chain.keys == (AGENT.public_key, NEXT.public_key)
    assert found.head == prefix_head(world.leaves)
    assert len(found.receipts) == 3
    world.tell(review(30, by=NEXT), settled(30))
    world.tell(review(30, by=AGENT), settled(30))
    assert verdicts(world.judge())[2:4] == [Verdict.SELF_REVIEW, Verdict.SELF_REVIEW]


def recovered(world: World, at: int = NOW - 6 * DAY) -> None:
    """The agent's key was stolen, and the next one takes the log over."""
    step = Rotation(
        AGENT.public_key, AGENT.public_key, NEXT.public_key, prefix_head(world.leaves), commitment(AGENT.public_key),
        at, by_both=False,
    )  # fmt: skip
    event = sign_event(step.to_template(), NEXT)
    leaf = KeyLeaf(key=NEXT.public_key, next=step.next, at=at, rotation=event.to_json().decode())
    world.log(leaf, job(30, at=at))
    world.events.append(event)
    world.publish(at=at + 60, by=NEXT)


def test_who_stole_a_key_makes_no_jobs_by_offers_of_it_and_nobody_hides_a_job_by_calling_it_stolen() -> None:
    world = honest(2)
    bad = world.tell(review(7, rating=1, offer=offer(7)), settled(7))
    assert verdicts(world.judge())[-1] is Verdict.SETTLED
    recovered(world)
    found = world.judge()
    assert found.chain.keys == (AGENT.public_key, NEXT.public_key)
    dropped = the(found, Kind.DROPPED)
    assert not dropped.is_proven
    assert dropped.events == (bad,)
    assert "only a lost key signed" in dropped.text
    assert verdicts(found)[-1] is Verdict.NEVER_PAID
    assert bad in [event for event, _ in candidates(AGENT.public_key, world.events, NOW)]
    world.settlements[bad.id] = settled(7, asked=())
    assert world.judge().findings == ()


def test_an_offer_by_a_key_that_does_not_count_yet() -> None:
    world = honest(2)
    handed_on(world)
    world.tell(review(7, offer=offer(7, by=NEXT)), settled(7))
    assert verdicts(world.judge())[-1] is Verdict.NEVER_PAID


def test_a_malformed_leaf_does_not_hide_who_has_the_log() -> None:
    world = honest(2)
    world.log("no leaf")
    recovered(world)
    found = world.judge()
    assert found.chain.current == NEXT.public_key
    assert found.head == prefix_head(world.leaves)
    assert kinds(found) == [Kind.MALFORMED]


def test_the_old_key_signs_no_roots_of_what_came_after() -> None:
    world = honest(2)
    event = handed_on(world)
    before = world.judge()
    world.log(job(40))
    world.publish(at=event.created_at + 120, by=AGENT)
    found = world.judge()
    assert kinds(found) == [Kind.FOREIGN_KEY]
    assert found.head == before.head


# -- the order of events, and how long it takes


def everything() -> World:
    """Much of the above in one world."""
    one, other = forked()
    other.log(job(12))
    one.publish()
    other.publish(at=NOW - 7 * DAY)
    one.events += other.events
    one.tell(review(1, by=STRANGER), settled(1))
    for rating in (1, 2):
        one.tell(review(1, rating=rating, at=NOW - 5 * DAY), settled(1))
    one.tell(review(7, offer=offer(7)), settled(7))
    one.tell(review(8, offer=offer(8, lock="lock 7")), settled(7))
    one.tell(review(12, at=NOW + 3000), settled(12))
    handed_on(one)
    return one


def test_the_order_of_events_never_matters() -> None:
    world = everything()
    expected = world.judge()
    assert len({finding.kind for finding in expected.findings}) >= 5
    chance = random.Random(6)
    for _ in range(20):
        chance.shuffle(world.events)
        settlements = list(world.settlements.items())
        chance.shuffle(settlements)
        world.settlements = dict(settlements)
        world.events.append(chance.choice(world.events))  # relays repeat each other
        assert world.judge() == expected


def test_a_large_log_is_read_in_seconds() -> None:
    world = World()
    world.log(*(job(number, at=NOW - 9 * DAY) for number in range(5_000)))
    world.publish()
    began = time.process_time()
    found = world.judge()
    assert time.process_time() - began < 5
    assert len(found.receipts) == 5_000
