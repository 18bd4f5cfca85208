"""Who is let in: by its own rate, by that of all strangers, by lists, by work. And what no stranger can do to others."""

from collections import Counter
from collections.abc import Iterable

import pytest

from dvm.jobs.admission import OWN_SECONDS, TOLD_PER_MINUTE_MAX, Admission, Bucket, demands, of_notices
from dvm.limits import ProviderLimits
from identity import Event, SecretKey, make_template, sign_event
from identity.nip13 import mine
from wallet import Action

NOW = 1_700_000_000
OWN = ProviderLimits().stranger_requests_per_minute_max * OWN_SECONDS // 60


def event(number: int, text: str = "") -> Event:
    """By the key of that number; nobody verifies it here."""
    return Event(
        id="f" * 64, pubkey=f"{number:064x}", created_at=NOW, kind=5050, tags=(), content=text, sig="0" * 128
    )


def ask(admission: Admission, one: Event, now: int = NOW, *, customer: bool = False) -> str:
    """As `Gate` asks: `ignored`, `admitted`, `refused` or `dropped`; what is ignored would have been dropped."""
    ignored = admission.ignores(one, now)
    if not admission.knows(one.pubkey, now):
        admission.meet(one.pubkey, now, is_customer=customer)
    verdict = admission.judge(one, now)
    if ignored:
        assert not verdict.admitted
        assert verdict.refusal is None
        return "ignored"
    return "admitted" if verdict.admitted else "refused" if verdict.refusal else "dropped"


def flood(admission: Admission, events: Iterable[Event], now: int = NOW) -> Counter[str]:
    return Counter(ask(admission, one, now) for one in events)


def test_a_bucket_fills_at_its_rate_and_no_further() -> None:
    bucket = Bucket(30, 240)
    for _ in range(120):
        bucket.take(NOW)
    assert bucket.left(NOW) == 0
    assert bucket.seconds_to_one(NOW) == 2
    assert bucket.left(NOW + 2) == 1
    assert bucket.left(NOW - 1000) == 1
    assert bucket.left(NOW - 998) == 2
    assert bucket.left(NOW + 10**6) == 120


def test_a_stranger_is_admitted_then_told_once_then_dropped() -> None:
    admission = Admission(ProviderLimits())
    assert flood(admission, [event(1)] * OWN) == {"admitted": OWN}
    assert flood(admission, [event(1)] * 1000) == {"refused": 1, "ignored": 999}
    assert flood(admission, [event(1)] * 10, NOW + 2) == {"admitted": 1, "ignored": 9}
    assert flood(admission, [event(1)] * 100, NOW + 62) == {"admitted": 30, "refused": 1, "ignored": 69}


def test_a_refusal_says_when_to_come_back() -> None:
    admission = Admission(ProviderLimits())
    flood(admission, [event(1)] * OWN)
    refusal = admission.judge(event(1), NOW).refusal
    assert refusal is not None
    assert refusal.reason == "rate-limited: 30 requests a minute; try again in 2 s"
    assert refusal.action is Action.RETRY_AFTER


def test_one_strangers_flood_leaves_others_alone() -> None:
    admission = Admission(ProviderLimits())
    flood(admission, [event(1)] * 10_000)
    assert flood(admission, [event(2)] * 20) == {"admitted": 20}


@pytest.mark.no_cover  # 600,000 times the same lines
@pytest.mark.parametrize("keys", [100, 1000])
def test_of_many_greedy_strangers_and_a_modest_one_the_modest_one_gets_in(keys: int) -> None:
    """As long as their own rates together are below that of all strangers."""
    limits = ProviderLimits(strangers_requests_per_minute_max=60 * keys)
    admission = Admission(limits)
    for second in range(60):
        greedy = [event(number) for number in range(1, keys + 1)]
        outcome = flood(admission, greedy * 10, NOW + second)
        assert outcome["admitted"] < 12 * keys
        if second % 2:
            assert ask(admission, event(0), NOW + second) == "admitted"


def test_keys_made_for_the_purpose_do_not_keep_customers_out() -> None:
    admission = Admission(ProviderLimits(), keys_max=100)
    assert ask(admission, event(0), customer=True) == "admitted"
    outcome = flood(admission, map(event, range(1, 20_000)))
    assert outcome["admitted"] == 500  # five seconds of all strangers' rate
    assert outcome["refused"] == TOLD_PER_MINUTE_MAX
    assert admission.knows(event(0).pubkey, NOW)
    assert flood(admission, [event(0)] * 100) == {"admitted": 100}


def test_a_stranger_that_is_forgotten_gains_nothing_over_a_new_key() -> None:
    admission = Admission(ProviderLimits(), keys_max=10)
    again = [event(number) for _ in range(500) for number in range(20)]
    assert flood(admission, again)["admitted"] <= 500


def test_a_customer_has_a_rate_too() -> None:
    admission = Admission(ProviderLimits(customer_requests_per_minute_max=10))
    outcome = Counter(ask(admission, event(1), customer=True) for _ in range(100))
    assert outcome == {"admitted": 40, "refused": 1, "ignored": 59}


def test_whether_a_stranger_has_paid_is_asked_again_after_a_minute() -> None:
    admission = Admission(ProviderLimits())
    flood(admission, [event(1)] * (OWN + 2))
    assert admission.ignores(event(1), NOW + 1)
    assert not admission.knows(event(1).pubkey, NOW + 60)
    assert not admission.ignores(event(1), NOW + 60)
    assert ask(admission, event(1), NOW + 60, customer=True) == "admitted"
    assert admission.knows(event(1).pubkey, NOW + 10_000)


def test_a_stranger_that_did_not_pay_keeps_its_bucket() -> None:
    admission = Admission(ProviderLimits(stranger_requests_per_minute_max=1))
    assert flood(admission, [event(1)] * 5) == {"admitted": 4, "refused": 1}
    assert flood(admission, [event(1)] * 5, NOW + 60) == {"admitted": 1, "refused": 1, "ignored": 3}


def test_lists() -> None:
    limits = ProviderLimits(
        blocked=(event(1).pubkey,), allowed=(event(2).pubkey,), stranger_requests_per_minute_max=0
    )
    admission = Admission(limits)
    assert admission.ignores(event(1), NOW)
    assert not admission.judge(event(1), NOW).admitted
    assert admission.is_allowed(event(2).pubkey)
    assert ask(admission, event(2), customer=admission.is_allowed(event(2).pubkey)) == "admitted"
    assert flood(admission, [event(3)] * 3) == {"refused": 1, "ignored": 2}


def test_strangers_may_be_asked_for_work() -> None:
    admission = Admission(ProviderLimits(stranger_pow_bits=8))
    key = SecretKey.generate()
    plain = make_template(5050, created_at=NOW)
    mined = sign_event(mine(plain, key.public_key, 8), key)
    admission.meet(key.public_key, NOW, is_customer=False)
    refusal = admission.judge(sign_event(plain, key), NOW).refusal
    assert refusal is not None
    assert refusal.reason.startswith("pow: 8 bits")
    assert refusal.action is Action.GIVE_UP
    assert admission.ignores(sign_event(plain, key), NOW)
    assert not admission.ignores(mined, NOW)
    assert admission.judge(mined, NOW).admitted
    assert ask(admission, event(5), customer=True) == "admitted"


def test_a_stranger_that_has_paid_is_asked_about_at_once() -> None:
    admission = Admission(ProviderLimits(stranger_requests_per_minute_max=1))
    flood(admission, [event(1)] * 5)
    assert not admission.is_customer(event(1).pubkey)
    admission.forget_stranger(event(1).pubkey)
    assert ask(admission, event(1), customer=True) == "admitted"
    assert admission.is_customer(event(1).pubkey)
    admission.forget_stranger(event(1).pubkey)
    assert admission.knows(event(1).pubkey, NOW)


@pytest.mark.parametrize("per_minute", [0, 1])
def test_what_is_no_request_is_heard_from_strangers_who_may_not_ask(per_minute: int) -> None:
    limits = ProviderLimits(stranger_requests_per_minute_max=per_minute, stranger_pow_bits=20)
    admission = Admission(of_notices(limits))
    assert flood(admission, [event(1)] * 500)["admitted"] == (OWN if not per_minute else 4)


def test_what_strangers_owe_is_announced() -> None:
    assert demands(ProviderLimits()) == ()
    limits = ProviderLimits(stranger_pow_bits=20, stranger_sat_min=3, stranger_requests_per_minute_max=0)
    assert demands(limits) == (
        ("strangers", "refused"), ("strangers", "pow", "20"), ("strangers", "amount", "3000"),
    )  # fmt: skip
