"""The whole table of wallet/escrow.py, written down a second time as the rules say it, and what holds for all of it."""

from dataclasses import replace
from itertools import product
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.escrow import (
    Accepted,
    Answered,
    AskedBack,
    Contested,
    Decision,
    Effect,
    EscrowInput,
    Funded,
    GivesBack,
    Gone,
    NotFunded,
    ResultOut,
    Role,
    Ruling,
    Served,
    SignaturesCame,
    Stage,
    Taken,
    Tick,
    TooLate,
    decide,
    wakes_at,
)
from wallet.terms import MARGIN_SECONDS, Method, Terms, check_agreement

DELIVER_BY: Final = 1_000
DELIVERED_AT: Final = 950
REVIEWED_AT: Final = 1_050
LOCKTIME: Final = 1_960
CLAIM_UNTIL: Final = 1_840
FOREVER: Final = 10**9

KEYS = {name: f"02{number:064x}" for number, name in enumerate(("provider", "customer", "arbiter"), start=1)}
ESCROW = Terms(
    method=Method.ESCROW, request_id="aa" * 32, provider="11" * 32, provider_key=KEYS["provider"],
    customer="22" * 32, customer_key=KEYS["customer"], mint="https://mint.test", price_sat=7,
    deliver_by=DELIVER_BY, review_seconds=100, dispute_seconds=500, locktime=LOCKTIME,
    arbiter="33" * 32, arbiter_key=KEYS["arbiter"],
)  # fmt: skip
REVEAL = replace(ESCROW, method=Method.REVEAL, arbiter=None, arbiter_key=None, hash="ab" * 32)

# The last moment of one rule and the first of the next, for every rule that asks for the time.
MOMENTS: Final = (
    0, 939, 940, 999, 1_000, 1_049, 1_050, 1_120, 1_121, 1_169, 1_170, 1_839, 1_840, 1_960, 1_961, FOREVER,
)  # fmt: skip
INPUTS: Final[dict[str, EscrowInput]] = {
    "served": Served(), "funded": Funded(), "not funded": NotFunded(), "result": ResultOut(),
    "shown": ResultOut(by_arbiter=True), "accepted": Accepted(), "contested": Contested(), "asked back": AskedBack(),
    "answered": Answered(),
    "signed by customer": SignaturesCame(Role.CUSTOMER), "signed by provider": SignaturesCame(Role.PROVIDER),
    "signed by arbiter": SignaturesCame(Role.ARBITER), "gives back": GivesBack(), "ruling": Ruling(), "taken": Taken(),
    "gone": Gone(by_right=False), "gone by right": Gone(by_right=True), "tick": Tick(),
    "too late": TooLate(),
}  # fmt: skip

Row = tuple[str, str, int, int, Stage, Effect]  # stages, input, first and last moment, what becomes of it
ALWAYS: Final = (0, FOREVER)
CUSTOMER: Final[list[Row]] = [
    ("locking", "funded", *ALWAYS, Stage.HELD, Effect.NONE),
    ("locking", "not funded", *ALWAYS, Stage.VOID, Effect.NONE),
    # A result that the customer sees itself must be in time (its own clock may be a margin off); what an arbiter shows is.
    ("held overdue", "result", 0, 1_120, Stage.DELIVERED, Effect.NONE),
    ("held overdue", "shown", *ALWAYS, Stage.DELIVERED, Effect.NONE),
    ("delivered", "accepted", *ALWAYS, Stage.RELEASED, Effect.SIGN_FOR_PROVIDER),
    ("overdue disputed", "accepted", *ALWAYS, Stage.CONCEDED, Effect.SIGN_FOR_PROVIDER),
    ("conceded", "tick", CLAIM_UNTIL, FOREVER, Stage.RELEASED, Effect.NONE),
    ("delivered", "contested", 0, 1_049, Stage.DISPUTED, Effect.DISPUTE),
    ("overdue", "contested", 0, CLAIM_UNTIL - 1, Stage.DISPUTED, Effect.DISPUTE),
    ("delivered", "tick", REVIEWED_AT, FOREVER, Stage.RELEASED, Effect.SIGN_FOR_PROVIDER),
    ("held", "tick", DELIVER_BY, LOCKTIME, Stage.OVERDUE, Effect.ASK_BACK),
    ("held overdue disputed", "tick", LOCKTIME + 1, FOREVER, Stage.CLAIMING, Effect.REFUND),
    ("held overdue delivered disputed", "signed by provider", *ALWAYS, Stage.CLAIMING, Effect.CLAIM),
    # It was asked; "conceded": its ruling met our acceptance half-way.
    ("overdue disputed conceded", "signed by arbiter", *ALWAYS, Stage.CLAIMING, Effect.CLAIM),
    ("claiming", "taken", *ALWAYS, Stage.REFUNDED, Effect.NONE),
    ("held overdue delivered disputed conceded claiming", "gone", *ALWAYS, Stage.LOST, Effect.NONE),
    (
        "held overdue delivered disputed conceded claiming",
        "gone by right",
        *ALWAYS,
        Stage.RELEASED,
        Effect.NONE,
    ),
]
PROVIDER: Final[list[Row]] = [
    ("proposed", "served", *ALWAYS, Stage.AGREED, Effect.NONE),
    ("proposed", "not funded", *ALWAYS, Stage.VOID, Effect.NONE),
    ("proposed agreed", "tick", DELIVER_BY, FOREVER, Stage.VOID, Effect.NONE),
    ("agreed", "funded", 0, DELIVER_BY - 1, Stage.HELD, Effect.NONE),
    ("held", "result", *ALWAYS, Stage.DELIVERED, Effect.REPORT),
    ("held", "shown", *ALWAYS, Stage.DELIVERED, Effect.REPORT),
    ("held", "gives back", *ALWAYS, Stage.YIELDED, Effect.SIGN_FOR_CUSTOMER),
    ("delivered disputed", "gives back", *ALWAYS, Stage.CONCEDED, Effect.SIGN_FOR_CUSTOMER),
    ("conceded", "tick", CLAIM_UNTIL, FOREVER, Stage.YIELDED, Effect.NONE),
    ("conceded", "gone", *ALWAYS, Stage.YIELDED, Effect.NONE),
    ("conceded", "gone by right", *ALWAYS, Stage.YIELDED, Effect.NONE),
    ("delivered", "contested", *ALWAYS, Stage.DISPUTED, Effect.ANSWER),
    ("disputed", "answered", *ALWAYS, Stage.DISPUTED, Effect.ANSWER),
    ("held delivered disputed conceded yielded", "signed by customer", *ALWAYS, Stage.CLAIMING, Effect.CLAIM),
    ("delivered disputed conceded", "signed by arbiter", *ALWAYS, Stage.CLAIMING, Effect.CLAIM),
    ("claiming", "taken", *ALWAYS, Stage.PAID, Effect.NONE),
    ("claiming", "too late", *ALWAYS, Stage.VOID, Effect.NONE),
    ("held delivered disputed claiming", "gone", *ALWAYS, Stage.LOST, Effect.NONE),
    ("held delivered disputed claiming", "gone by right", *ALWAYS, Stage.LOST, Effect.NONE),
]
BEFORE_T: Final = CLAIM_UNTIL - 1
ARBITER: Final[list[Row]] = [
    ("agreed overdue", "result", 0, 1_120, Stage.DELIVERED, Effect.REDELIVER),
    ("agreed overdue", "shown", 0, 1_120, Stage.DELIVERED, Effect.REDELIVER),
    ("agreed", "asked back", 940, BEFORE_T, Stage.OVERDUE, Effect.NONE),
    ("overdue", "tick", 1_121, BEFORE_T, Stage.RULED, Effect.SIGN_FOR_CUSTOMER),
    ("delivered", "tick", REVIEWED_AT + MARGIN_SECONDS, BEFORE_T, Stage.RULED, Effect.SIGN_FOR_PROVIDER),
    ("agreed overdue delivered", "contested", 0, BEFORE_T, Stage.DISPUTED, Effect.NONE),
    ("overdue delivered disputed", "accepted", 0, BEFORE_T, Stage.RULED, Effect.SIGN_FOR_PROVIDER),
    ("overdue delivered disputed", "gives back", 0, BEFORE_T, Stage.RULED, Effect.SIGN_FOR_CUSTOMER),
    ("disputed", "ruling", 0, BEFORE_T, Stage.RULED, Effect.SIGN_AS_RULED),
    # What is not used before the locktime is of no use, so nothing is signed near it.
    ("proposed agreed locking held overdue delivered disputed conceded claiming", "tick", CLAIM_UNTIL, FOREVER, Stage.VOID,
     Effect.NONE),
]  # fmt: skip
TABLE = {Role.CUSTOMER: CUSTOMER, Role.PROVIDER: PROVIDER, Role.ARBITER: ARBITER}

# `reveal` has no arbiter to ask, and its coins are taken as soon as they come.
FOR_REVEAL: Final[dict[Role, dict[tuple[str, str], Row | None]]] = {
    Role.CUSTOMER: {("held", "tick"): ("held", "tick", LOCKTIME + 1, FOREVER, Stage.CLAIMING, Effect.REFUND)},
    Role.PROVIDER: {
        ("agreed", "funded"): ("agreed", "funded", 0, BEFORE_T, Stage.CLAIMING, Effect.CLAIM),
        ("proposed", "tick"): ("proposed", "tick", CLAIM_UNTIL, FOREVER, Stage.VOID, Effect.NONE),
        ("agreed", "tick"): ("agreed", "tick", CLAIM_UNTIL, FOREVER, Stage.VOID, Effect.NONE),
        ("claiming", "taken"): ("claiming", "taken", *ALWAYS, Stage.PAID, Effect.TELL_KEY),
    },
    Role.ARBITER: {},
}


def expected(role: Role, method: Method, stage: Stage, name: str, now: int) -> Decision | None:
    """What the rows above say."""
    other = FOR_REVEAL[role].get((stage, name)) if method is Method.REVEAL else None
    for stages, event, first, last, becomes, effect in [other] if other else TABLE[role]:
        if stage in stages.split() and event == name and first <= now <= last:
            return Decision(becomes, effect)
    return None


@pytest.mark.parametrize("terms", [ESCROW, REVEAL], ids=lambda terms: terms.method)
@pytest.mark.parametrize("role", Role)
def test_every_pair_of_stage_and_input_at_every_moment_that_matters(role: Role, terms: Terms) -> None:
    wrong = []
    for stage, (name, event), now in product(Stage, INPUTS.items(), MOMENTS):
        found = decide(role, stage, event, terms, now=now, delivered_at=DELIVERED_AT)
        wanted = expected(role, terms.method, stage, name, now)
        if found != wanted:
            wrong.append(f"{role}, {stage}, {name} at {now}: {found}, and should be {wanted}")
    assert not wrong, "\n".join(wrong)


WAKES: Final[dict[Role, dict[str, int]]] = {
    Role.CUSTOMER: {
        "held conceded": DELIVER_BY, "overdue disputed": LOCKTIME + 1, "delivered": REVIEWED_AT,
    },
    Role.PROVIDER: {"proposed agreed conceded": DELIVER_BY, "held delivered disputed": LOCKTIME + 1},
    Role.ARBITER: {
        "agreed disputed": CLAIM_UNTIL, "overdue": DELIVER_BY + MARGIN_SECONDS + 1,
        "delivered": REVIEWED_AT + MARGIN_SECONDS,
    },
}  # fmt: skip
WAKES_OF_REVEAL: Final = {
    (Role.CUSTOMER, "held"): LOCKTIME + 1, (Role.PROVIDER, "proposed"): CLAIM_UNTIL, (Role.PROVIDER, "agreed"): CLAIM_UNTIL,
}  # fmt: skip


@pytest.mark.parametrize("terms", [ESCROW, REVEAL], ids=lambda terms: terms.method)
@pytest.mark.parametrize("role", Role)
def test_each_stage_is_woken_at_the_first_moment_that_matters(role: Role, terms: Terms) -> None:
    for stage in Stage:
        wanted = next((at for stages, at in WAKES[role].items() if stage in stages.split()), None)
        if terms.method is Method.REVEAL:
            wanted = WAKES_OF_REVEAL.get((role, stage), wanted)
        assert wakes_at(role, stage, terms, DELIVERED_AT) == wanted, stage


def test_what_was_delivered_late_or_not_seen_is_no_reason_to_wake_too_late_or_at_all() -> None:
    assert wakes_at(Role.ARBITER, Stage.DELIVERED, ESCROW, CLAIM_UNTIL - 1) == CLAIM_UNTIL
    assert wakes_at(Role.ARBITER, Stage.DELIVERED, ESCROW, None) is None
    assert wakes_at(Role.CUSTOMER, Stage.DELIVERED, ESCROW, None) is None


def test_the_moments_are_those_of_the_terms() -> None:
    check_agreement(ESCROW, 0)
    assert ESCROW.claim_until == CLAIM_UNTIL
    assert DELIVERED_AT + ESCROW.review_seconds == REVIEWED_AT
    with pytest.raises(Exception, match="too early"):
        check_agreement(replace(ESCROW, locktime=LOCKTIME - 1), 0)


def test_coins_that_nobody_takes_yet_are_those_of_these_stages() -> None:
    locked = {stage for stage in Stage if stage.is_locked}
    assert locked == {Stage.HELD, Stage.OVERDUE, Stage.DELIVERED, Stage.DISPUTED}


def test_the_words_that_databases_hold_are_the_names() -> None:
    for word in (*Role, *Stage, *Effect):
        assert word.value == word.name.lower()


# What holds for any terms. -----------------------------------------------------------------------------------------


@st.composite
def agreed_terms(draw: st.DrawFn) -> Terms:
    """Terms that all parties could sign at time 0."""
    deliver_by, review, dispute = (
        draw(st.integers(1, 10**5)),
        draw(st.integers(0, 10**4)),
        draw(st.integers(0, 10**5)),
    )
    slack = draw(st.integers(0, 10**4))
    terms = replace(
        draw(st.sampled_from([ESCROW, REVEAL])), deliver_by=deliver_by, review_seconds=review, dispute_seconds=dispute,
        locktime=deliver_by + review + dispute + 3 * MARGIN_SECONDS + slack,
    )  # fmt: skip
    check_agreement(terms, 0)
    return terms


ROLES, STAGES = st.sampled_from(Role), st.sampled_from(Stage)
EVENTS = st.sampled_from(list(INPUTS.values()))
TIMES = st.integers(0, 3 * 10**5)


@given(role=ROLES, stage=STAGES, event=EVENTS, terms=agreed_terms(), now=TIMES, seen=st.none() | TIMES)
def test_what_has_ended_stays_so(
    role: Role, stage: Stage, event: EscrowInput, terms: Terms, now: int, seen: int | None
) -> None:
    crossing = (role, stage, event) == (Role.PROVIDER, Stage.YIELDED, SignaturesCame(Role.CUSTOMER))
    if stage.is_final:
        assert wakes_at(role, stage, terms, seen) is None
        if not crossing:  # where both gave the coins away, one of them must take them
            assert decide(role, stage, event, terms, now=now, delivered_at=seen) is None


@given(role=ROLES, stage=STAGES, terms=agreed_terms(), seen=TIMES, late=st.integers(0, 10**5))
def test_a_party_is_woken_for_something(role: Role, stage: Stage, terms: Terms, seen: int, late: int) -> None:
    """At the moment it is woken, and however late it wakes, time alone changes its escrow."""
    wake_at = wakes_at(role, stage, terms, seen)
    if wake_at is None:
        return
    # Time changes nothing for these: they look whether the coins are gone.
    if role is Role.PROVIDER and stage in (Stage.HELD, Stage.DELIVERED, Stage.DISPUTED):
        assert wake_at == terms.locktime + 1
        return
    if stage is Stage.CONCEDED:
        assert wake_at == terms.deliver_by
        return
    assert decide(role, stage, Tick(), terms, now=wake_at + late, delivered_at=seen) is not None


@given(role=ROLES, stage=STAGES, terms=agreed_terms(), seen=TIMES, now=TIMES)
def test_no_party_sleeps_through_its_time(
    role: Role, stage: Stage, terms: Terms, seen: int, now: int
) -> None:
    """Whenever time would change an escrow, its party is awake. (Of stages that a role never has, nothing is asked.)"""
    reached = {stage for row in TABLE[role] for stage in (*row[0].split(), row[4])} - {"proposed"}
    if stage not in (reached if role is Role.ARBITER else {*reached, "proposed"}) or (
        stage in ("locking", "claiming", "held", "conceded") and role is Role.ARBITER
    ):
        return
    if decide(role, stage, Tick(), terms, now=now, delivered_at=seen) is not None:
        wake_at = wakes_at(role, stage, terms, seen)
        assert wake_at is not None
        assert wake_at <= now


@given(role=ROLES, stage=STAGES, terms=agreed_terms(), seen=st.none() | TIMES)
def test_nothing_that_may_hold_money_waits_for_a_message_alone(
    role: Role, stage: Stage, terms: Terms, seen: int | None
) -> None:
    """Silence of everybody else ends every stage but those that the driver itself carries on (its swap, its lock)."""
    by_itself = {Stage.LOCKING, Stage.CLAIMING}
    has = {
        Role.CUSTOMER: {Stage.HELD, Stage.OVERDUE, Stage.DISPUTED, Stage.CONCEDED},
        Role.PROVIDER: {
            Stage.PROPOSED,
            Stage.AGREED,
            Stage.HELD,
            Stage.DELIVERED,
            Stage.DISPUTED,
            Stage.CONCEDED,
        },
        Role.ARBITER: {Stage.AGREED, Stage.OVERDUE, Stage.DISPUTED},
    }[role] - by_itself
    if stage in has or (stage is Stage.DELIVERED and seen is not None):
        assert wakes_at(role, stage, terms, seen) is not None or (
            role is Role.ARBITER and stage is Stage.HELD
        )


@given(
    terms=agreed_terms(),
    now=TIMES,
    seen=TIMES,
    events=st.lists(st.tuples(EVENTS, st.integers(0, 10**4)), max_size=12),
)
def test_a_customer_signs_for_the_provider_or_takes_the_money_and_never_both(
    terms: Terms, now: int, seen: int, events: list[tuple[EscrowInput, int]]
) -> None:
    stage, effects, delivered_at = Stage.LOCKING, [], None
    for event, seconds in events:
        now += seconds
        decided = decide(Role.CUSTOMER, stage, event, terms, now=now, delivered_at=delivered_at)
        if decided is not None:
            delivered_at = now if isinstance(event, ResultOut) else delivered_at
            stage, effects = decided.stage, [*effects, decided.then]
    assert not (Effect.SIGN_FOR_PROVIDER in effects and {Effect.CLAIM, Effect.REFUND} & set(effects))
    assert effects.count(Effect.SIGN_FOR_PROVIDER) <= 1
    if stage is Stage.REFUNDED:
        assert Effect.SIGN_FOR_PROVIDER not in effects


@given(terms=agreed_terms(), events=st.lists(st.tuples(EVENTS, st.integers(0, 10**4)), max_size=12))
def test_an_arbiter_signs_once_and_never_near_the_locktime(
    terms: Terms, events: list[tuple[EscrowInput, int]]
) -> None:
    stage, signed, now, delivered_at = Stage.AGREED, [], 0, None
    signing = {Effect.SIGN_FOR_PROVIDER, Effect.SIGN_FOR_CUSTOMER, Effect.SIGN_AS_RULED}
    for event, seconds in events:
        now += seconds
        decided = decide(Role.ARBITER, stage, event, terms, now=now, delivered_at=delivered_at)
        if decided is None:
            continue
        delivered_at = now if isinstance(event, ResultOut) else delivered_at
        stage = decided.stage
        if decided.then in signing:
            signed.append(now)
    assert len(signed) <= 1
    assert all(at < terms.claim_until for at in signed)
