"""The commands that move money and ask for work, against a real relay and a real mint (or one that can be broken)."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from dvm import Agent, Job, JobFailed, Provider
from dvm.kinds import CHAT_MESSAGE
from dvm.nip90 import Offer, Status, make_feedback
from identity import Event, LocalSigner, SecretKey, encode_npub, make_template, sign_event
from identity.nip59 import wrap
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.cli import ask as ask_module
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from tradepost.testing import MemoryMint
from wallet import encode_token

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

pytestmark = pytest.mark.process


@pytest.fixture
async def shop(configured: str, relay_url: str, tmp_path: Path) -> AsyncIterator[Provider]:
    """An agent with a post of its own: shouts for 21 sat (5001), whispers for nothing (5002), fails for 21 sat (5050)."""
    agent = Agent("Loud", about="Says it louder")

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        await job.progress("breathing [in]\x1b[2J")
        return job.text.upper() + job.param("end")

    @agent.serves(kind=5002)
    def whisper(job: Job) -> str:
        return job.text.lower()

    @agent.serves(kind=5050, price_sat=21)
    async def fail(job: Job) -> str:
        raise JobFailed("my throat is sore")

    # Without Lightning: FakeWallet would pay the invoice of each offer by itself, and jobs paid in ecash twice.
    settings = Settings(relays=(relay_url,), mints=(configured,), rails=(), data=tmp_path / "shop")
    async with open_post(settings) as post:
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await provider.start()
        await post.outbox.flush(5)
        yield provider
        await provider.stop(0)


class Silent:
    """An agent that asks for 21 sat locked for some seconds, and is not heard of again."""

    def __init__(self, relay_url: str, mint: str, locked_seconds: int) -> None:
        self.key = SecretKey.generate()
        self._relay_url = relay_url
        self._mint = mint
        self._locked_seconds = locked_seconds
        self._clock = SystemClock()

    async def __aenter__(self) -> "Silent":
        self._pool = RelayPool([self._relay_url], clock=self._clock)
        await self._pool.__aenter__()
        await self._pool.subscribe([Filter(kinds=(5001,))], self._offer)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._pool.__aexit__(*exc_info)

    async def _offer(self, request: Event, _relay: str) -> None:
        now = self._clock.now()
        lock = SecretKey.generate().compressed_public_key
        offer = Offer(
            price_msat=21_000,
            mints=(self._mint,),
            lock=lock,
            locktime=now + self._locked_seconds,
            settle=("prepaid",),
        )
        told = make_feedback(request, Status.PAYMENT_REQUIRED, now=now, message="", tags=offer.to_tags())
        await self._pool.publish(sign_event(told, self.key))


# -- wallet


async def test_money_in_out_and_about(
    configured: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    funded = await cli_beside("wallet", "fund", 100)
    invoice, received = funded.out.splitlines()
    assert (funded.code, received) == (0, "received 100 sat, mint's fee 0 sat")
    assert invoice.startswith("lnbc")
    assert "Pay this invoice" in funded.err
    assert (await cli_beside("wallet", "balance")).out == "100 sat\n"
    token = (await cli_beside("wallet", "send", 40)).out.strip()
    left = (await cli_beside("wallet", "balance", "--json")).lines[0]
    assert left["locked_sat"] == left["open_invoices"] == 0
    assert left["mints"] == {configured: left["total_sat"]}
    assert 57 <= int(str(left["total_sat"])) <= 60

    home = os.environ["TRADEPOST_HOME"]
    monkeypatch.setenv("TRADEPOST_HOME", f"{home}-2")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"  {token}\n"))
    (line,) = (await cli_beside("wallet", "receive", "-", "--json")).lines
    assert (line["state"], line["amount_sat"]) == ("done", 39)
    again = await cli_beside("wallet", "receive", token)
    assert (again.code, again.out) == (1, "")
    assert "taken before" in again.err
    paid = await cli_beside("wallet", "pay", MemoryMint(f"https://{uuid4()}.test").invoice(5))
    assert (paid.code, paid.out[:10]) == (0, "paid 5 sat")
    assert (await cli_beside("wallet", "balance", "--json")).lines[0]["total_sat"] in range(31, 35)


async def test_what_cannot_be_done_moves_nothing(
    configured: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    await cli_beside("wallet", "fund", 10)
    token = (await cli_beside("wallet", "send", 5)).out.strip()
    held = (await cli_beside("wallet", "balance")).out
    for arguments, said in (
        (("wallet", "send", 50), "tradepost wallet fund"),
        (("wallet", "fund", 5, "--mint", "https://other.test"), "not one of our mints"),
        (("wallet", "fund", 5, "--mint", "nonsense"), "http(s)://"),
        (("wallet", "send", 5, "--mint", "https://other.test"), "not one of our mints"),
        (("wallet", "pay", "lnbc1rubbish"), "not a Lightning invoice"),
        (("wallet", "receive", token[:-20]), "token"),
    ):
        ran = await cli_beside(*arguments)
        assert (ran.code, ran.out) == (1, ""), arguments
        assert said in ran.err.replace("\n", " "), ran.err
    assert (await cli_beside("wallet", "balance")).out == held
    monkeypatch.setenv("TRADEPOST_MINTS", f"http://127.0.0.1:{free_port}")
    for arguments in (("wallet", "fund", 5), ("wallet", "send", 5)):
        ran = await cli_beside(*arguments)
        assert (ran.code, ran.out) == (1, "")
    assert "is not one of our mints" in (await cli_beside("wallet", "receive", token)).err.replace("\n", " ")
    down = await cli_beside("wallet", "fund", 5)
    assert "try again later" in down.err.replace("\n", " ")


async def interrupt(_self: SystemClock, _seconds: float) -> None:
    """Ctrl-C while `wallet fund` waits for somebody to pay."""
    signal.raise_signal(signal.SIGINT)
    await asyncio.Event().wait()


def test_funding_goes_on_after_an_interrupt(
    memory_mint: MemoryMint, cli: "Cli", monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", f"ws://127.0.0.1:{free_port}")

    with monkeypatch.context() as patch:
        patch.setattr("tradepost.cli.wallet.SystemClock.sleep", interrupt)
        ran = cli("wallet", "fund", 32)
    assert ran.code == 130
    assert "tradepost settle" in ran.err.replace("\n", " ")
    told = cli("wallet", "balance")
    assert told.out == "0 sat\n"
    assert "1 unpaid invoice" in told.err
    memory_mint.pay(ran.out.strip())
    settled = cli("settle")
    assert (settled.code, settled.out) == (0, "")
    assert "32 sat can be spent" in settled.err
    assert cli("wallet", "balance", "--json").lines == [
        {
            "total_sat": 32,
            "mints": {memory_mint.url: 32},
            "locked_sat": 0,
            "escrow_sat": 0,
            "open_invoices": 0,
        }
    ]


def test_any_command_that_moves_money_fetches_what_was_paid(
    memory_mint: MemoryMint, cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tradepost.cli.wallet.SystemClock.sleep", interrupt)
        invoice = cli("wallet", "fund", 32).out.strip()
    memory_mint.pay(invoice)
    assert cli("wallet", "send", 8).out.startswith("cashuB")


# -- ask


async def test_paid_work_from_the_request_to_the_result(
    shop: Provider, configured: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await cli_beside("wallet", "fund", 100)
    npub = encode_npub(shop.public_key)
    Path("input.txt").write_text("a long text")
    ran = await cli_beside("ask", npub, "@input.txt", "--kind", 5001, "--max-sat", 50, "--param", "end=!")
    assert (ran.code, ran.out) == (0, "A LONG TEXT!\n")
    shown = [line for line in ran.err.splitlines() if line.startswith("●")]
    assert shown[:2] == ["● offer: 21 sat", "● paid: 21 sat"]
    # Events of one moment may overtake each other on their way, and the result overtake them all.
    assert set(shown[2:-1]) <= {"● working", "● working: breathing [in]\ufffd[2J"}
    assert shown[-1] == "● result: it is below"
    assert ran.err.startswith("job ")
    job_id = ran.err.split()[1]

    (line,) = (await cli_beside("jobs", "--json")).lines
    assert (line["id"], line["side"], line["state"], line["price_sat"]) == (job_id, "bought", "done", 21)
    table = (await cli_beside("jobs")).out.splitlines()
    assert table[0].split() == ["id", "side", "kind", "state", "sat", "created"]
    assert table[1].split()[:5] == [job_id[:12], "bought", "summarisation", "done", "21"]
    assert max(map(len, table)) <= 80
    detail = await cli_beside("job", job_id[:8])
    assert (detail.code, detail.out.splitlines()[-1]) == (0, "A LONG TEXT!")
    for part in (job_id, npub, "21 sat", "a long text", "end=!", configured):
        assert part in detail.out
    assert max(map(len, detail.out.splitlines())) <= 80
    (whole,) = (await cli_beside("job", job_id.upper(), "--json")).lines
    assert whole["result"] == "A LONG TEXT!"
    assert whole["request"]["id"] == job_id  # type: ignore[index]

    monkeypatch.setenv(
        "TRADEPOST_HOME", str(tmp_path / "shop")
    )  # the other side of the counter, while it is open
    (sold,) = (await cli_beside("job", job_id, "--json")).lines
    assert (sold["side"], sold["state"]) == ("sold", "done")
    assert sold["payments"] == [{"state": "redeemed", "amount_sat": 21, "reason": ""}]
    assert "21 sat, redeemed" in (await cli_beside("job", job_id)).out
    assert (await cli_beside("wallet", "balance")).out == "21 sat\n"
    busy = await cli_beside("wallet", "send", 1)
    assert busy.code == 1
    assert f"pid {os.getpid()}" in busy.err.replace("\n", " ")


async def test_change_that_comes_when_the_order_has_ended_is_taken_in(
    shop: Provider, configured: str, relay_url: str, cli_beside: "AsyncCli"
) -> None:
    await cli_beside("wallet", "fund", 50)
    await cli_beside("ask", encode_npub(shop.public_key), "text", "--kind", 5001, "--max-sat", 21)
    ((order,), (before,)) = [
        (await cli_beside(*what, "--json")).lines for what in (("jobs",), ("wallet", "balance"))
    ]
    token = encode_token(await shop._post.wallet.send(configured, 8))
    customer, now = own_key(Settings.load(), "customer").public_key, SystemClock().now()
    tags = [("p", customer), ("e", str(order["id"])), ("t", "change")]
    letter = make_template(CHAT_MESSAGE, content=token, tags=tags, created_at=now)
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        await pool.publish(await wrap(shop.signer, customer, letter, now=now))
    settled = await cli_beside("settle")
    assert settled.code == 0, settled.err
    (after,) = (await cli_beside("wallet", "balance", "--json")).lines
    assert int(str(after["total_sat"])) - int(str(before["total_sat"])) in (7, 8)


async def test_free_work_by_what_it_is_called_and_from_stdin(
    shop: Provider, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("HELLO"))
    ran = await cli_beside("ask", "translation", "-", "--kind", 5002, "--json")
    assert ran.code == 0
    assert ran.err == ""
    assert [line["step"] for line in ran.lines] == ["asking", "working", "result"]
    assert ran.lines[-1]["content"] == "hello"
    assert len({str(line["job"]) for line in ran.lines}) == 1


async def test_work_that_is_not_done_costs_nothing(shop: Provider, cli_beside: "AsyncCli") -> None:
    npub = encode_npub(shop.public_key)
    broke = await cli_beside("ask", npub, "text", "--kind", 5001, "--max-sat", 50)
    assert broke.code == 1
    assert "tradepost wallet fund" in broke.err.replace("\n", " ")
    await cli_beside("wallet", "fund", 100)
    dear = await cli_beside("ask", npub, "text", "--kind", 5001, "--max-sat", 20)
    assert (dear.code, dear.out) == (1, "")
    assert "asks 21 sat, your limit is 20 sat; nothing was paid" in dear.err.replace("\n", " ")
    failed = await cli_beside("ask", npub, "text", "--kind", 5050, "--max-sat", 50, "--json")
    assert failed.code == 1
    assert [line["step"] for line in failed.lines][-2:] == ["refunded", "error"]
    assert "21 sat came back" in failed.err
    nobody = await cli_beside("ask", "juggling", "text", "--kind", 5002)
    assert nobody.code == 1
    assert "npub" in nobody.err
    assert int(str((await cli_beside("wallet", "balance", "--json")).lines[0]["total_sat"])) >= 95
    assert (await cli_beside("jobs", "--limit", 2)).out.count("bought") == 2


async def test_an_agent_that_goes_silent_with_our_sats(
    memory_mint: MemoryMint, relay_url: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    """No result comes: where the money is, how it comes back, and that it does."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    monkeypatch.setattr(ask_module, "REFUND_SECONDS_MAX", 0.2)
    await fund(memory_mint, cli_beside, 100)
    async with Silent(relay_url, memory_mint.url, locked_seconds=8) as agent:
        ran = await cli_beside(
            "ask", agent.key.public_key, "text", "--kind", 5001, "--max-sat", 50, "--seconds", 1
        )
    assert (ran.code, ran.out) == (1, "")
    told = ran.err.replace("\n", " ")
    assert "no result came in time; 21 sat are locked for the agent until " in told
    assert "`tradepost settle` takes them back" in told
    assert "21 sat are locked in orders; `tradepost settle`" in (
        await cli_beside("wallet", "balance")
    ).err.replace("\n", " ")
    early = await cli_beside("settle", "--seconds", 1)
    assert early.code == 0
    assert "awaiting_refund" in early.out
    assert "21 sat stay locked until" in early.err.replace("\n", " ")
    memory_mint.down = True
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:1")  # the money needs no relay
    late = await cli_beside("settle", "--seconds", 9)
    assert late.code == 1
    assert "21 sat could not be settled" in late.err.replace("\n", " ")
    memory_mint.down = False
    (line,) = (await cli_beside("settle", "--json")).lines
    assert line["state"] == "refunded"
    assert (await cli_beside("settle")).code == 0
    (books,) = (await cli_beside("wallet", "balance", "--json")).lines
    assert int(str(books["total_sat"])) + memory_mint.fees_sat == 100
    assert books["locked_sat"] == 0


async def test_a_mint_that_is_down_when_we_should_pay(
    memory_mint: MemoryMint, relay_url: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    monkeypatch.setattr(ask_module, "REFUND_SECONDS_MAX", 0.2)
    await fund(memory_mint, cli_beside, 100)
    memory_mint.down = True
    async with Silent(relay_url, memory_mint.url, locked_seconds=60) as agent:
        ran = await cli_beside(
            "ask", agent.key.public_key, "text", "--kind", 5001, "--max-sat", 50, "--seconds", 2
        )
    assert (ran.code, ran.out) == (1, "")
    assert "mint_unavailable" in ran.err
    assert "nothing was paid" in ran.err.replace("\n", " ")
    assert (await cli_beside("wallet", "balance")).out == "100 sat\n"


async def test_a_mint_that_goes_down_while_we_pay(
    memory_mint: MemoryMint, relay_url: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command ends all the same, and the next one heals what it left."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    monkeypatch.setattr(ask_module, "REFUND_SECONDS_MAX", 0.2)
    await fund(memory_mint, cli_beside, 100)
    swap, healthy = memory_mint._swap, True

    def swap_and_break(*arguments: Any) -> Any:
        memory_mint.down = healthy
        memory_mint.lose_answer("/v1/")
        return swap(*arguments)

    monkeypatch.setattr(memory_mint, "_swap", swap_and_break)
    memory_mint.lose_answer("/v1/swap")
    async with Silent(relay_url, memory_mint.url, locked_seconds=5) as agent:
        ran = await cli_beside(
            "ask", agent.key.public_key, "text", "--kind", 5001, "--max-sat", 50, "--seconds", 3
        )
    assert (ran.code, ran.out) == (1, "")
    assert "still paying: the mint does not answer. `tradepost settle` goes on" in ran.err.replace("\n", " ")
    healthy = memory_mint.down = False
    assert (await cli_beside("settle", "--seconds", 10)).code == 0
    assert [line["state"] for line in (await cli_beside("jobs", "--json")).lines] == ["refunded"]
    (books,) = (await cli_beside("wallet", "balance", "--json")).lines
    assert int(str(books["total_sat"])) + memory_mint.fees_sat == 100


async def test_an_interrupted_ask_says_how_it_goes_on(configured: str, relay_url: str) -> None:
    async with Silent(relay_url, configured, locked_seconds=60) as agent:
        process = await tradepost("ask", agent.key.public_key, "text", "--kind", "5001")
        assert process.stderr is not None
        assert b"announces nothing" in await process.stderr.readline()
        assert (await process.stderr.readline()).startswith(b"job ")
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out) == (130, b"")
    assert b"tradepost settle" in err
    assert b"Traceback" not in err


# -- up


async def test_an_agent_waits_for_its_relay_and_closes_when_told(
    home: Path, tmp_path: Path, cli_beside: "AsyncCli", free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli_beside("init", tmp_path / "shop")
    relays = f"ws://127.0.0.1:{free_port}"
    process = await tradepost("up", str(tmp_path / "shop"), TRADEPOST_RELAYS=relays)
    assert process.stdout is not None
    assert process.stderr is not None
    npub = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    told = [(await asyncio.wait_for(process.stderr.readline(), 20)).decode() for _ in range(3)]
    assert told[0] == f"● shop is open on {relays}; Ctrl-C closes\n"
    assert told[1] == "  5001 summarisation, free\n"
    assert "no relay can be reached" in told[2]
    assert "still trying" in told[2]
    assert (await cli_beside("wallet", "balance")).code == 0
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out, err) == (0, b"", b"")
    monkeypatch.chdir(tmp_path / "shop")
    assert (await cli_beside("key", "show", "shop")).out.strip() == npub


async def fund(mint: MemoryMint, cli_beside: "AsyncCli", sat: int) -> None:
    """As `wallet fund`, with the invoice paid by somebody."""

    async def pay() -> None:
        while not mint._mint_quotes:
            await asyncio.sleep(0.01)
        for quote in mint._mint_quotes.values():
            mint.pay(quote.bolt11)

    paying = asyncio.create_task(pay())
    assert (await cli_beside("wallet", "fund", sat)).code == 0
    await paying


async def tradepost(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tradepost", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
