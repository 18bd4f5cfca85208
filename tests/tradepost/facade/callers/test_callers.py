"""Who calls: keys, tickets, tiers, and what is remembered of them."""

import pytest

from store import Database
from tradepost.facade.callers import queries_callers as queries
from tradepost.facade.callers.callers import (
    KNOWN_MAX,
    TIER_SECONDS_MAX,
    Caller,
    Callers,
    Tier,
    account_of,
    ticket_caller,
)
from tradepost.facade.callers.queries_callers import KeyRow
from tradepost.facade.web.problems import Forbidden, Unauthorized
from tradepost.testing import ManualClock
from wallet.ledger import Cause, Posting, post

KEY, OTHER, OPERATOR = "nostr:" + "aa" * 32, "ed25519:" + "bb" * 32, "cc" * 32


@pytest.fixture
def callers(db: Database, clock: ManualClock) -> Callers:
    return Callers(db, clock, [OPERATOR])


async def ensure(db: Database, callers: Callers, caller: Caller) -> None:
    async with db.transaction() as tx:
        await callers.ensure(tx, caller)


async def credit(db: Database, caller: Caller, sat: int, name: str = "deposit:1") -> None:
    entries = {f"caller/{caller.id}": -1000 * sat, "outside": 1000 * sat}
    async with db.transaction() as tx:
        await post(tx, Posting(name, Cause.OPERATION, entries, 1))


async def move(db: Database, callers: Callers, key: str, account: str) -> None:
    async with db.transaction() as tx:
        await queries.put_key(tx, KeyRow(key, account, "", None, None, 1))
        callers.forget(tx)


async def test_a_key_has_an_account_before_there_is_a_row_and_the_same_one_after(
    db: Database, callers: Callers, clock: ManualClock
) -> None:
    caller = await callers.of_key(KEY)
    assert caller == Caller(account_of(KEY), KEY, Tier.AUTHENTICATED)
    assert len(caller.id) == 32
    assert await db.all("SELECT * FROM callers") == []
    for _ in range(2):
        await ensure(db, callers, caller)
    assert [row["id"] for row in await db.all("SELECT id FROM callers")] == [caller.id]
    assert await Callers(db, clock, []).of_key(KEY) == caller
    assert (await callers.of_key(OTHER)).id != caller.id


async def test_a_ticket_is_kept_as_a_hash_and_opens_its_account(db: Database, callers: Callers) -> None:
    async with db.transaction() as tx:
        ticket, made = await callers.make_ticket(tx)
    assert ticket.startswith("tpt_")
    assert await callers.of_ticket(ticket) == made
    assert made.is_ticket
    assert made.tier is Tier.ANONYMOUS
    for table in await db.all("SELECT name FROM sqlite_master WHERE type = 'table'"):
        assert ticket not in repr([tuple(row) for row in await db.all(f"SELECT * FROM {table['name']}")])  # type: ignore[call-overload]
    assert ticket not in repr(made)


async def test_a_ticket_that_nobody_was_given_opens_nothing(db: Database, callers: Callers) -> None:
    with pytest.raises(Unauthorized, match="not known"):
        await callers.of_ticket("tpt_guessed")
    # Nor does the hash of one, from a stolen copy of the database.
    async with db.transaction() as tx:
        _, made = await callers.make_ticket(tx)
    with pytest.raises(Unauthorized, match="not known"):
        await callers.of_ticket(made.key.removeprefix("ticket:"))


async def test_a_derived_ticket_has_one_account_however_often_it_is_made(
    db: Database, callers: Callers
) -> None:
    derived = ticket_caller("tpt_derived")
    for _ in range(2):
        await ensure(db, callers, derived)
    assert await callers.of_ticket("tpt_derived") == derived
    assert len(await db.all("SELECT * FROM callers")) == 1
    assert await db.all("SELECT * FROM caller_keys") == []


async def test_what_undone_transactions_made_is_not_known(db: Database, callers: Callers) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            ticket, _ = await callers.make_ticket(tx)
            1 / 0  # noqa: B018
    with pytest.raises(Unauthorized):
        await callers.of_ticket(ticket)


async def test_who_brought_sats_is_paying_a_few_seconds_later_and_stays_so(
    db: Database, callers: Callers, clock: ManualClock
) -> None:
    caller = await callers.of_key(KEY)
    await credit(db, caller, 5)
    await clock.advance(TIER_SECONDS_MAX)
    assert (await callers.of_key(KEY)).tier is Tier.PAYING
    await credit(db, caller, -5, "spent:1")
    await clock.advance(TIER_SECONDS_MAX)
    assert (await callers.of_key(KEY)).tier is Tier.PAYING
    assert (await callers.of_key(OTHER)).tier is Tier.AUTHENTICATED


async def test_a_paid_ticket_is_paying(db: Database, callers: Callers) -> None:
    async with db.transaction() as tx:
        ticket, made = await callers.make_ticket(tx)
    await credit(db, made, 5)
    assert (await callers.of_ticket(ticket)).tier is Tier.PAYING


async def test_the_operator_is_who_the_configuration_names_by_a_nostr_key(callers: Callers) -> None:
    operator = await callers.of_key(f"nostr:{OPERATOR}")
    assert operator.tier is Tier.OPERATOR
    callers.check_may(operator, operator=True)
    forged = await callers.of_key(f"ed25519:{OPERATOR}")
    assert forged.tier is Tier.AUTHENTICATED
    with pytest.raises(Forbidden):
        callers.check_may(forged, operator=True)
    with pytest.raises(Unauthorized):
        callers.check_may(None, operator=True)
    callers.check_may(None)


async def test_a_known_key_costs_no_read(
    db: Database, callers: Callers, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with db.transaction() as tx:
        ticket, made = await callers.make_ticket(tx)
    first, holder = await callers.of_key(KEY), await callers.of_ticket(ticket)

    async def no_read(*_: object) -> None:
        raise AssertionError("a read")

    with monkeypatch.context() as patched:
        patched.setattr(db, "all", no_read)
        assert await callers.of_key(KEY) == first
        assert await callers.of_ticket(ticket) == holder == made
        await clock.advance(TIER_SECONDS_MAX)
        with pytest.raises(AssertionError, match="a read"):
            await callers.of_key(KEY)


async def test_a_key_that_moves_is_known_by_its_new_account_at_once(db: Database, callers: Callers) -> None:
    before, account = await callers.of_key(KEY), await callers.of_key(OTHER)
    await ensure(db, callers, account)
    await move(db, callers, KEY, account.id)
    assert (await callers.of_key(KEY)).id == account.id
    # A request of before may leave nothing in the account that its key left.
    with pytest.raises(Unauthorized, match="send the request again") as refused:
        await ensure(db, callers, before)
    assert refused.value.retry_after == 1
    assert (await db.one("SELECT 1 FROM callers WHERE id = ?", before.id)) is None


async def test_a_look_up_that_a_move_overtakes_is_not_remembered(
    db: Database, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await callers.of_key(OTHER)
    await ensure(db, callers, account)
    read = queries.account_of

    async def slow(*given: object) -> str | None:
        found = await read(*given)  # type: ignore[arg-type]
        monkeypatch.undo()
        await move(db, callers, KEY, account.id)
        return found

    monkeypatch.setattr(queries, "account_of", slow)
    assert (await callers.of_key(KEY)).id == account_of(KEY)  # this one came before
    assert (await callers.of_key(KEY)).id == account.id


async def test_a_flood_of_keys_takes_bounded_room(callers: Callers) -> None:
    for number in range(KNOWN_MAX + 10):
        await callers.of_key(f"ed25519:{number}")
    assert len(callers._known) <= KNOWN_MAX
    assert (await callers.of_key("ed25519:0")).id == account_of("ed25519:0")


async def test_a_key_with_a_budget_is_not_the_owner(db: Database, callers: Callers) -> None:
    caller = await callers.of_key(KEY)
    async with db.transaction() as tx:
        await callers.check_owner(tx, caller)  # nothing is here yet
        await callers.ensure(tx, caller)
        await callers.check_owner(tx, caller)
        await queries.put_key(tx, KeyRow(KEY, caller.id, "", None, 100, 1))
        with pytest.raises(Forbidden, match="budget"):
            await callers.check_owner(tx, caller)
