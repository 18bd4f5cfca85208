"""What a job brought becomes its agent's, less the post's cut; what went back does not."""

import pytest

from dvm import Agent, Job, JobFailed, OrderFailed, Post, ProviderLimits
from tradepost.post import limits_of
from tradepost.settings import Settings
from tradepost.testing import Market
from wallet import queries_books

PRICE_SAT = 21


def make_agent() -> Agent:
    agent = Agent("Upper")

    @agent.serves(kind=5001, price_sat=PRICE_SAT)
    async def work(job: Job) -> str:
        return job.text.upper()

    @agent.serves(kind=5050, price_sat=PRICE_SAT)
    async def fail(job: Job) -> str:
        raise JobFailed("cannot do it")

    return agent


async def postings(post: Post, cause: str) -> list[dict[str, object]]:
    rows = await post.db.all("SELECT * FROM postings WHERE cause = ? ORDER BY id", cause)
    return [
        {"job": row["job_id"], "op": row["op_id"], "entries": await queries_books.entries(post.db, row["id"])}
        for row in rows
    ]


@pytest.mark.parametrize(
    ("limits", "cut_msat"),
    [(None, 1050), (ProviderLimits(fee_bps=0), 0), (ProviderLimits(fee_bps=333), 699)],
)
async def test_a_paid_job_is_settled_once_and_the_cut_is_rounded_down(
    market: Market, limits: ProviderLimits | None, cut_msat: int
) -> None:
    provider = await market.open(make_agent(), limits=limits)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    assert await order.result() == "HELLO"
    post, agent = provider._post, f"agent/{provider.public_key}"
    (settled,) = await postings(post, "settlement")
    entries = {f"jobs/{order.id}": 21_000, agent: cut_msat - 21_000} | (
        {"fees/post": -cut_msat} if cut_msat else {}
    )
    (payment,) = await post.db.all("SELECT op_id FROM payments")
    assert settled == {"job": order.id, "op": payment["op_id"], "entries": entries}
    report = await post.wallet.audit(ask_mints=True)
    assert report.ok
    assert report.accounts[agent] == cut_msat - 21_000
    # What is left of the job is what its customer paid the mint for it.
    assert report.accounts[f"jobs/{order.id}"] == -report.accounts.get("fees/mint", 0)


async def test_a_refund_reverses_exactly_what_was_settled(market: Market) -> None:
    provider = await market.open(make_agent())
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "magic", kind=5050, max_sat=50)
    with pytest.raises(OrderFailed):
        await order.result()
    post = provider._post
    (settled,), (back,) = await postings(post, "settlement"), await postings(post, "reversal")
    assert settled["entries"][f"jobs/{order.id}"] == 21_000  # type: ignore[index] - a dict
    assert back["entries"] == {account: -msat for account, msat in settled["entries"].items()}  # type: ignore[attr-defined]
    assert back["job"] == order.id
    report = await post.wallet.audit(ask_mints=True)
    assert report.ok
    assert (report.accounts[f"agent/{provider.public_key}"], report.accounts["fees/post"]) == (0, 0)


async def test_free_jobs_settle_nothing(market: Market) -> None:
    agent = Agent("Free")

    @agent.serves(kind=5001)
    async def work(job: Job) -> str:
        return job.text

    provider = await market.open(agent)
    customer = await market.customer()
    await (await customer.ask(provider.public_key, "hello", kind=5001)).result()
    assert await postings(provider._post, "settlement") == []


async def test_nothing_is_offered_when_no_mint_has_room(market: Market) -> None:
    provider = await market.open(make_agent(), sat=30)
    wallet = provider._post.wallet
    wallet._desk.caps.by_mint[market.mint.url] = 50  # type: ignore[index] - a dict
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    with pytest.raises(OrderFailed, match="as many of our sats as we trust them with"):
        await order.result()
    assert await customer._post.wallet.balance() == {market.mint.url: 100}
    assert await postings(provider._post, "settlement") == []


def test_the_fee_is_configured_for_all_and_for_single_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(fee_bps=300, agent_fee_bps={"upper": 0})
    assert limits_of(settings, "upper").fee_bps == 0
    assert limits_of(settings, "other").fee_bps == 300
    monkeypatch.setenv("TRADEPOST_AGENT_FEE_BPS", '{"upper": 100}')
    assert limits_of(Settings(), "upper").fee_bps == 100
    assert limits_of(Settings(), "other").fee_bps == ProviderLimits().fee_bps == 500
