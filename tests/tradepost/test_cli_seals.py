"""`tradepost escrow proof` and `check`: a third party, in a process of its own, sees who cheated."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, Job, OrderFailed, ProviderLimits
from dvm.jobs.sealing import Sealing
from dvm.reveals import SealedResult
from identity import encode_npub
from identity.seal import Sealed
from tradepost.testing import Market
from wallet.terms import Method

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

ROOT = Path(__file__).parents[2]


async def bought(home: Path, monkeypatch: pytest.MonkeyPatch, *, honestly: bool) -> tuple[str, str]:
    """A sealed result, bought from an agent by the customer of the post in `home`: the job and the agent."""
    agent = Agent("Loud")
    honest: Callable[..., SealedResult] = Sealing.seal

    @agent.serves(kind=5001, price_sat=21)
    def shout(job: Job) -> str:
        return job.text.upper()

    def cheat(*args: object) -> SealedResult:
        result = honest(*args)
        promise = replace(result.sealed.promise, payload_hash="00" * 32)
        return replace(result, sealed=Sealed(result.sealed.ciphertext, promise))

    async with Market(folder=home.parent) as market:
        provider = await market.open(agent, limits=ProviderLimits(reveal_msat_max=100_000))
        customer = await market.customer(name=home.name, sat=100)
        await (await customer.ask(provider.public_key, "hi", kind=5001, max_sat=50)).result()
        if not honestly:
            monkeypatch.setattr(Sealing, "seal", cheat)
        order = await customer.ask(
            provider.public_key, "hello", kind=5001, max_sat=50, settle=(Method.REVEAL,)
        )
        if honestly:
            assert await order.result() == "HELLO"
        else:
            with pytest.raises(OrderFailed, match="false seal"):
                await order.result()
        return order.id, provider.public_key


async def test_a_fraud_is_shown_to_anybody(
    cli_beside: "AsyncCli", home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job_id, agent = await bought(home, monkeypatch, honestly=False)
    shown = await cli_beside("escrow", "proof", job_id[:12])
    assert shown.code == 0
    assert (await cli_beside("job", job_id, "--json")).lines[0]["state"] == "lost"
    (tmp_path / "proof.json").write_text(shown.out)
    environment = {**os.environ, "TRADEPOST_HOME": str(tmp_path / "somebody-else"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tradepost", "escrow", "check", str(tmp_path / "proof.json")]
    checked = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "proved: inside is something else than promised" in checked.stdout
    assert encode_npub(agent) in checked.stdout
    told = (await cli_beside("escrow", "check", tmp_path / "proof.json", "--json")).lines
    assert told == [
        {"fraud": True, "reason": "inside is something else than promised", "agent": agent, "job": job_id,
         "offer": told[0]["offer"]}
    ]  # fmt: skip
    altered = shown.out.replace(job_id, "00" * 32)
    (tmp_path / "altered.json").write_text(altered)
    refused = await cli_beside("escrow", "check", tmp_path / "altered.json")
    assert (refused.code, refused.out) == (1, "")
    assert "no fraud is proved" in refused.err


async def test_an_honest_seal_proves_nothing_and_its_text_is_shown(
    cli_beside: "AsyncCli", home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = await bought(home, monkeypatch, honestly=True)
    kept = await cli_beside("escrow", "proof", job_id)
    assert (kept.code, kept.out) == (1, "")
    assert "kept its promise" in kept.err
    assert (await cli_beside("job", job_id, "--json")).lines[0]["result"] == "HELLO"
    assert "0 jobs you asked for begin" in (await cli_beside("escrow", "proof", "zz")).err


def test_what_is_no_proof(cli: "Cli", tmp_path: Path) -> None:
    (tmp_path / "proof.json").write_text("{}")
    ran = cli("escrow", "check", tmp_path / "proof.json")
    assert ran.code == 1
    assert "a fraud proof is JSON" in ran.err
    assert cli("escrow", "check", tmp_path / "nowhere.json").code == 1
