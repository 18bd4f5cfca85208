"""`tradepost review`, and `ask --rate`, on a real relay and a real mint."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from dvm import Agent, Job, Provider
from identity import LocalSigner, parse_event
from identity.receipts import parse_review
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.cli import review as review_module
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from wallet import Wallet
from wallet.mint import CoinState, ProofStateAnswer

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

pytestmark = pytest.mark.process


@pytest.fixture
async def shop(configured: str, relay_url: str, tmp_path: Path) -> AsyncIterator[Provider]:
    """Shouts for 21 sat (5001) and is fairly sure of it, whispers for nothing (5002)."""
    agent = Agent("Loud")

    @agent.serves(kind=5001, price_sat=21)
    def shout(job: Job) -> str:
        job.confidence = 0.9
        return job.text.upper()

    @agent.serves(kind=5002)
    def whisper(job: Job) -> str:
        return job.text.lower()

    settings = Settings(relays=(relay_url,), mints=(configured,), rails=(), data=tmp_path / "shop")
    async with open_post(settings) as post:
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await provider.start()
        await post.outbox.flush(5)
        yield provider
        await provider.stop(0)


async def test_a_job_is_rated_when_it_is_done(shop: Provider, cli_beside: "AsyncCli", relay_url: str) -> None:
    await cli_beside("wallet", "fund", 100)
    ran = await cli_beside(
        "ask", shop.public_key, "hello", "--kind", 5001, "--max-sat", 30, "--rate", 4, "--json"
    )
    assert ran.code == 0, ran.err
    result, rated = (line for line in ran.lines if line["step"] in ("result", "reviewed"))
    assert (result["content"], result["confidence"]) == ("HELLO", 0.9)
    event = parse_event(orjson.dumps(rated["event"]))
    assert (parse_review(event).rating, parse_review(event).evidence_class) == (4, "lock")
    job = str(result["job"])
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        assert await pool.query([Filter(kinds=(1985,), ids=(event.id,))]) == [event]
    again = await cli_beside("review", job[:12], 4, "--json")
    assert again.lines == [rated]
    other = await cli_beside("review", job[:12], 1)
    assert (other.code, other.out) == (1, "")
    assert "already, with 4 of 5" in other.err.replace("\n", " ")
    shown = (await cli_beside("job", job[:12])).out
    assert "4 of 5, evidence lock" in shown
    assert "0.90, says the agent" in shown
    (line,) = (await cli_beside("job", job, "--json")).lines
    assert line["review"] == {"id": event.id, "rating": 4, "text": "", "evidence": "lock"}
    assert line["confidence"] == 0.9


async def test_free_work_is_reviewed_and_does_not_count(shop: Provider, cli_beside: "AsyncCli") -> None:
    (job,) = {
        line["job"]
        for line in (await cli_beside("ask", shop.public_key, "HO", "--kind", 5002, "--json")).lines
    }
    ran = await cli_beside("review", job, 5, "--text", "so quiet\x1b[2J")
    assert (ran.code, ran.out) == (0, "")
    assert "5 of 5, evidence none" in ran.err
    assert "readers do not count it" in ran.err.replace("\n", " ")
    assert "so quiet" in (await cli_beside("job", job)).out


async def test_what_cannot_be_rated_at_once_says_how_it_can_be_later(
    shop: Provider, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unspent(_wallet: Wallet, _mint: str, secrets: Sequence[str]) -> dict[str, ProofStateAnswer]:
        return {secret: ProofStateAnswer("", CoinState.UNSPENT) for secret in secrets}

    await cli_beside("wallet", "fund", 100)
    monkeypatch.setattr(review_module, "SETTLED_SECONDS_MAX", 0)
    monkeypatch.setattr("wallet.wallet.Wallet.states", unspent)
    ran = await cli_beside("ask", shop.public_key, "hello", "--kind", 5001, "--max-sat", 30, "--rate", 4)
    assert ran.code == 1
    assert ran.out == "HELLO\n"
    assert "tradepost review" in ran.err


def test_a_rating_is_one_to_five(cli: "Cli") -> None:
    assert cli("review", "0123", 6).code == 1
    assert "begins with '0123'" in cli("review", "0123", 5).err.replace("\n", " ")
    both = cli("ask", "summarisation", "x", "--settle", "prepaid", "--rate", 5, "--lightning")
    assert "--rate and --lightning do not go together" in both.err.replace("\n", " ")
