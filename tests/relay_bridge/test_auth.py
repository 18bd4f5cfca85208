"""NIP-42: only on demand, only with the key the matter is about."""

import asyncio

from identity.event import Event
from identity.keys import SecretKey
from identity.signer import LocalSigner
from relay_bridge import Filter
from relay_bridge.messages import relay_frame

URL = "ws://relay.test"
KIND = Filter(kinds=(5001,))


def authenticated(relay) -> set[str]:
    return {key for connection in relay._sockets for key in connection.authenticated}


async def test_it_authenticates_as_the_author_when_publishing_needs_it(pool, relay, make, key):
    relay.switches.auth_to_write = True
    stranger = SecretKey.generate()
    pool.add_signer(LocalSigner(stranger))
    pool.add_signer(LocalSigner(key))
    assert (await pool.publish(make()))[URL].accepted
    assert authenticated(relay) == {key.public_key}


async def test_without_a_key_the_relays_answer_is_passed_on(pool, relay, make):
    relay.switches.auth_to_write = True
    answer = (await pool.publish(make()))[URL]
    assert not answer.accepted
    assert answer.message.startswith("auth-required:")
    assert not answer.refused


async def test_subscriptions_and_queries_authenticate_as_whom_they_are_about(
    pool, relay, make, key, eventually
):
    relay.switches.auth_to_read = True
    pool.add_signer(LocalSigner(SecretKey.generate()))
    pool.add_signer(LocalSigner(key))
    event = make(tags=[["p", key.public_key]])
    relay.insert(event)
    mine = Filter(kinds=(5001,), tags={"p": (key.public_key,)})
    assert await pool.query([mine]) == [event]
    got: list[Event] = []
    subscription = await pool.subscribe([mine], lambda event, url: got.append(event))
    await eventually(lambda: got == [event])
    assert authenticated(relay) == {key.public_key}
    await subscription.close()


async def test_a_challenge_issued_anew_is_answered_anew(pool, relay, make, key):
    relay.switches.auth_to_write = True
    pool.add_signer(LocalSigner(key))
    assert (await pool.publish(make()))[URL].accepted
    for connection in relay._sockets:
        connection.authenticated.clear()
    assert (await pool.publish(make()))[URL].accepted


async def test_a_relay_that_is_never_content_is_asked_a_bounded_number_of_times(
    pool, relay, make, key, eventually
):
    pool.add_signer(LocalSigner(key))
    relay.say(relay_frame("AUTH", "once"))
    relay.switches.reject = lambda event: "auth-required: still not"
    relay.switches.refuse = lambda filters: "auth-required: still not"
    async with asyncio.timeout(5):
        assert not (await pool.publish(make()))[URL].accepted
        assert await pool.query([KIND]) == []
    assert len(relay.published) <= 5
    assert len(relay.requests) <= 5


async def test_many_publishers_share_one_introduction(pool, relay, make, key):
    relay.switches.auth_to_write = True
    pool.add_signer(LocalSigner(key))
    answers = await asyncio.gather(*(pool.publish(make()) for _ in range(20)))
    assert all(answer[URL].accepted for answer in answers)


async def test_unasked_challenges_are_not_answered(pool, relay, make, key):
    pool.add_signer(LocalSigner(key))
    relay.say(relay_frame("AUTH", "who are you?"))
    assert (await pool.publish(make()))[URL].accepted
    assert authenticated(relay) == set()


async def test_closing_while_the_challenge_never_comes_leaves_nothing(pool, relay, eventually, key):
    pool.add_signer(LocalSigner(key))
    relay.switches.refuse = lambda filters: "auth-required: but I shall not say how"
    subscription = await pool.subscribe([KIND], lambda event, url: None)
    await eventually(lambda: relay.requests)
    await subscription.close()
