"""Parties that do not keep to the rules: what their software does otherwise, and what they do besides."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dvm.escrow.messages import AsksBack, Delivered, Disputes, EscrowMessage, Signs, write_message
from dvm.kinds import CHAT_MESSAGE
from dvm.nip90 import make_result
from identity import SecretKey, make_template, parse_event, sign_event
from identity.nip59 import wrap
from soak.cheats_sales import OTHER_KEY, pay_twice, say_that_it_paid, sell_falsely
from soak.office import RELAY
from soak.world import Party
from wallet import Lock, PaymentPayload, WalletError, encode_payload
from wallet.escrow import Stage
from wallet.escrows import Escrows
from wallet.locks import lock_secret
from wallet.queries_escrows import EscrowRow
from wallet.terms import Terms

if TYPE_CHECKING:
    from soak.run import Run


OTHER_HASH: Final = hashlib.sha256(b"another key").hexdigest()

LOCKS: Final[dict[str, Callable[[Lock], Lock]]] = {
    "customer: another hash": lambda lock: replace(lock, hash=OTHER_HASH),
    "customer: one signature will do": lambda lock: replace(lock, n_sigs=1),
    "customer: an early locktime": lambda lock: replace(lock, locktime=(lock.locktime or 0) - 700),
    "customer: a key for the arbiter's": lambda lock: replace(
        lock, pubkeys=(lock.pubkeys[0], OTHER_KEY.compressed_public_key)
    ),
    "customer: one key more": lambda lock: replace(
        lock, pubkeys=(*lock.pubkeys, OTHER_KEY.compressed_public_key)
    ),
}


def begin(cheat: str, name: str, role: Any) -> None:
    """Change a party's software before it starts."""
    if name != cheat.split(":", maxsplit=1)[0]:
        return
    if name == "provider":
        sell_falsely(cheat, role)
    if name == "customer":
        _locks_otherwise(cheat, role)


def _locks_otherwise(cheat: str, role: Any) -> None:
    """What a customer does otherwise with the coins it locks."""
    purchases = role._purchases
    plan = purchases._plan

    async def otherwise(row: Any, offer: Any, lock: Lock, price_sat: int) -> Any:
        if cheat in LOCKS:
            lock = LOCKS[cheat](lock)
        if cheat == "customer: one sat less":
            price_sat -= 1
        return await plan(row, offer, lock, price_sat)

    purchases._plan = otherwise


async def act(cheat: str, run: "Run") -> None:
    """What a cheat does besides."""
    if cheat in LOCKS:
        await _takes_alone(run, "customer", OTHER_KEY)
    elif cheat in _ACTS:
        await _ACTS[cheat](run)


def key_of(run: "Run", name: str, row: EscrowRow) -> SecretKey:
    """A party's one-job key."""
    seed = run.world[name].seed
    match name:
        case "customer":
            return seed.job_key("customer", row.party, row.lock_nonce or "")
        case "provider":
            return seed.job_key("provider", row.party, row.request_id)
    return seed.job_key("arbiter", row.party, row.request_id, row.terms.provider)


async def say(run: "Run", name: str, to: str, message: EscrowMessage, terms: Terms) -> None:
    """Send a letter that the party's software would not."""
    party, now = run.world[name], run.world[name].clock.now()
    recipient = run.world[to].key
    rumor = write_message(message, terms, recipient, now)
    await run.world.office.insist(await wrap(party.signer, recipient, rumor, now=now))


async def _coins(run: "Run", name: str, row: EscrowRow) -> list[tuple[str, int]]:
    post = run.world[name].post
    token = await Escrows(post.db, post.wallet, post.clock).coins(row)
    return [(proof.secret, proof.amount) for proof in token.proofs]


async def _takes_alone(run: "Run", name: str, *more: SecretKey) -> None:
    """Now and then, try to have all coins with no keys but our own."""
    row = await run.reach(name, Stage.HELD)
    for number in range(60):
        await asyncio.sleep(40)

        async def attempt(number: int = number) -> None:
            post, party = run.world[name].post, run.world[name]
            coins = await Escrows(post.db, post.wallet, party.clock).coins(row)
            unspent = await post.wallet.states(coins.mint, [proof.secret for proof in coins.proofs])
            left = tuple(proof for proof in coins.proofs if unspent[proof.secret].state == "UNSPENT")
            plan = await post.wallet.plan_redeem(
                replace(coins, proofs=left), keys=(key_of(run, name, row), *more), op_id=f"cheat:{number}",
                purpose="cheat", record=True,
            )  # fmt: skip
            await post.wallet.settle(plan.op_id)

        try:
            await run.doing(name, attempt)
        except WalletError:
            continue


async def _disputes_with_other_coins(run: "Run") -> None:
    row = await run.reach("customer", Stage.HELD)
    coins = [
        (lock_secret(row.terms.lock, f"{n:064x}"), amount)
        for n, (_, amount) in enumerate(await _coins(run, "customer", row))
    ]
    await say(run, "customer", "arbiter", Disputes("no", coins), row.terms)


async def _asks_back_what_was_delivered(run: "Run") -> None:
    row = await run.reach("customer", Stage.DELIVERED, Stage.RELEASED)
    coins = await _coins(run, "customer", row)
    for _ in range(20):
        await say(run, "customer", "arbiter", AsksBack(coins), row.terms)
        await asyncio.sleep(30)


async def _accepts_with_a_wrong_key(run: "Run") -> None:
    await run.reach("provider", Stage.HELD, Stage.DELIVERED)
    row = await run.reach("customer", *Stage)
    secrets = [secret for secret, _ in await _coins(run, "customer", row)]
    await say(run, "customer", "provider", Signs(Escrows.sign(secrets, OTHER_KEY)), row.terms)
    await say(run, "customer", "provider", Signs(dict.fromkeys(secrets, "00" * 64)), row.terms)


async def _accepts_one_coin(run: "Run") -> None:
    await run.reach("provider", Stage.HELD, Stage.DELIVERED)
    row = await run.reach("customer", *Stage)
    secrets = [secret for secret, _ in await _coins(run, "customer", row)]
    one = Escrows.sign(secrets[:1], key_of(run, "customer", row))
    for rest in ({}, dict.fromkeys(secrets[1:], "00" * 64)):
        await say(run, "customer", "provider", Signs(one | rest), row.terms)


async def _pays_two_jobs(run: "Run") -> None:
    while len(run.orders) < 2:
        await asyncio.sleep(1)
    row = await run.reach("customer", Stage.HELD, Stage.DELIVERED, Stage.RELEASED)
    party = run.world["customer"]
    token = await Escrows(party.post.db, party.post.wallet, party.clock).coins(row)
    payload = PaymentPayload(
        mint=token.mint,
        unit=token.unit,
        proofs=token.proofs,
        id=next(o for o in run.orders if o != row.request_id),
    )
    to, now = run.world["provider"].key, party.clock.now()
    message = make_template(CHAT_MESSAGE, content=encode_payload(payload), tags=[("p", to)], created_at=now)
    for _ in range(3):
        await run.world.office.insist(await wrap(party.signer, to, message, now=now))
        await asyncio.sleep(10)


def _result(run: "Run", row: EscrowRow, key: SecretKey, *, created_at: int) -> Any:
    return sign_event(make_result(row.request, "nonsense", price_msat=0, now=created_at), key)


async def _dates_back(run: "Run") -> None:
    row = await run.reach("provider", Stage.HELD)
    await asyncio.sleep(400)
    provider: Party = run.world["provider"]
    result = _result(run, row, provider.seed.identity("provider"), created_at=row.terms.deliver_by - 60)
    await run.world.office.insist(result)
    coins = await _coins(run, "provider", row)
    await say(run, "provider", "arbiter", Delivered(result.id, [RELAY], coins), row.terms)


async def _reports_anothers(run: "Run") -> None:
    row = await run.reach("provider", Stage.HELD)
    result = _result(run, row, OTHER_KEY, created_at=run.world["provider"].clock.now())
    forged = parse_event(json.dumps({**result.to_dict(), "pubkey": run.world["provider"].key}))
    for one in (result, forged):
        await run.world.office.insist(one)
        coins = await _coins(run, "provider", row)
        await say(run, "provider", "arbiter", Delivered(one.id, [RELAY], coins), row.terms)


async def _signs_for_both(run: "Run") -> None:
    row = await run.reach("provider", Stage.HELD, Stage.DELIVERED)
    await asyncio.sleep(run.plan.rules_seconds / 4)
    secrets = [secret for secret, _ in await _coins(run, "provider", row)]
    case = await run.reach("arbiter", *Stage)
    signed = Signs(Escrows.sign(secrets, key_of(run, "arbiter", case)))
    for to in ("provider", "customer"):
        await say(run, "arbiter", to, signed, case.terms)


def _signs_one_coin(to: str) -> Callable[["Run"], Any]:
    async def sign(run: "Run") -> None:
        row = await run.reach("provider", Stage.HELD, Stage.DELIVERED)
        await asyncio.sleep(run.plan.rules_seconds / 4)
        secrets = [secret for secret, _ in await _coins(run, "provider", row)][:1]
        case = await run.reach("arbiter", *Stage)
        await say(run, "arbiter", to, Signs(Escrows.sign(secrets, key_of(run, "arbiter", case))), case.terms)

    return sign


_ACTS: Final[dict[str, Callable[["Run"], Any]]] = {
    "customer: disputes with other coins": _disputes_with_other_coins,
    "customer: asks back what was delivered": _asks_back_what_was_delivered,
    "customer: accepts with a wrong key": _accepts_with_a_wrong_key,
    "customer: accepts one coin": _accepts_one_coin,
    "customer: races the refund": lambda run: _takes_alone(run, "customer"),
    "customer: pays two jobs with one funding": _pays_two_jobs,
    "customer: says that it has paid": say_that_it_paid,
    "customer: pays twice": pay_twice,
    "provider: takes the coins alone": lambda run: _takes_alone(run, "provider"),
    "provider: takes what it gave back": lambda run: _takes_alone(run, "provider"),
    "provider: dates its result back": _dates_back,
    "provider: reports what somebody else signed": _reports_anothers,
    "arbiter: signs for both": _signs_for_both,
    "arbiter: signs one coin for the customer": _signs_one_coin("customer"),
    "arbiter: signs one coin for the provider": _signs_one_coin("provider"),
}
