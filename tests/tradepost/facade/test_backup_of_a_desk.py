"""The drill: a backup of a post that has callers, more of everything after it, the folder lost, the backup brought back."""

import asyncio
import itertools
import shutil
from pathlib import Path
from typing import Any

import pyrage
import pytest

import tradepost.backup_restore
from store import Clock
from tests.tradepost.facade.conftest import Caller, capitals, open_desk
from tests.tradepost.lives import fund as fill
from tradepost.backup import BackupLock, make_backup
from tradepost.backup_restore import BackupKey, BackupRestored, restore_backup
from tradepost.errors import ConfigError
from tradepost.post import open_post
from tradepost.restore import restore_post
from tradepost.settings import Settings
from tradepost.testing import Market
from wallet import parse_token

IDENTITY = pyrage.x25519.Identity.generate()
LOCK = BackupLock(recipients=(str(IDENTITY.to_public()),))
KEY = BackupKey(identities=str(IDENTITY))


def memory(market: Market) -> dict[str, Any]:
    return {"clock": market.clock, "connect": market.relay.connect, "transport": market.mint.transport}


async def bring_back(market: Market, settings: Settings, file: Path, tmp_path: Path) -> BackupRestored:
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    return await restore_backup(here, file, KEY, load=lambda _folder: settings, **memory(market))


def dies_at(number: int) -> Any:
    """Writes files as ever, but is killed instead of writing that one."""
    write, count = tradepost.backup_restore._write, itertools.count(1)

    def write_or_die(*args: Any) -> None:
        if next(count) == number:
            raise RuntimeError("killed")
        write(*args)

    return write_or_die


async def hire(who: Caller, text: str) -> str:
    answer = await who(
        "POST", "/v1/jobs?wait=30", {"agent": "capitals", "kind": 5001, "input": text, "max_sat": 30}
    )
    assert answer.status == 201, answer.text
    assert answer.json["result"] == text.upper()
    return str(answer.json["id"])


async def balance(who: Caller) -> int:
    return int((await who("GET", "/v1/balance")).json["balance_sat"])


class Ahead:
    """A clock that lets callers sign at once after a desk began: what was signed before that is refused."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def now(self) -> int:
        return self.clock.now() + 30


async def test_a_backup_brings_back_all_that_the_words_can_find_and_callers_as_they_were(
    market: Market,
    settings: Settings,
    caller: Caller,
    other: Caller,
    fund: Any,
    token_of: Any,
    tmp_path: Path,
) -> None:
    file = tmp_path / "post.age"
    outside = await market.customer(name="outside", sat=100)
    async with open_desk(market, settings, [capitals()]) as desk:
        await fill(market, desk.post, 200)
        await fund(caller, 100)
        before = await hire(caller, "before")
        then = {"caller": await balance(caller), "other": await balance(other)}
        made = await asyncio.to_thread(make_backup, settings, file, LOCK)
        # All of this the backup does not know.
        after = await hire(caller, "after")
        await fund(other, 50)
        order = await outside.ask(desk.providers[0].public_key, "sold", kind=5001, max_sat=50)
        assert await order.result() == "SOLD"
        taken = await caller("POST", "/v1/balance/withdrawals", {"way": "ecash", "amount_sat": 20})
        assert taken.status in (200, 201), taken.text
        receiver = await market.post("receiver")
        await receiver.wallet.receive(parse_token(taken.json["withdrawal"]["token"]))
        own_sat = sum((await desk.post.wallet.balance()).values())
        await desk.post.outbox.flush(5)
    shutil.rmtree(settings.data)
    restored = await bring_back(market, settings, file, tmp_path)
    assert restored.made_at == made.made_at
    assert restored.report.balance_sat == own_sat  # every sat, whenever it came; and none that went
    assert restored.report.troubles == ()
    assert restored.audit.ok, restored.audit.problems
    assert restored.callers.owed_sat == then["caller"] + then["other"]
    caller.clock = other.clock = Ahead(market.clock)
    async with open_desk(market, settings, [capitals()]) as desk:
        assert {"caller": await balance(caller), "other": await balance(other)} == then
        assert (await caller("GET", f"/v1/jobs/{before}")).json["result"] == "BEFORE"
        assert (await caller("GET", f"/v1/jobs/{after}")).status == 404
        await hire(caller, "again")
        assert (await desk.post.wallet.audit(ask_mints=True)).ok
        # Nothing is in two purses: all that is there can be spent, once.
        left_sat = sum((await desk.post.wallet.balance()).values())
        token = await desk.post.wallet.send(market.mint.url, left_sat - 5)
        await receiver.wallet.receive(token)


async def test_the_operator_sees_what_callers_took_since(
    market: Market, settings: Settings, caller: Caller, fund: Any, tmp_path: Path
) -> None:
    file = tmp_path / "post.age"
    async with open_desk(market, settings) as desk:
        await fund(caller, 100)
        had_sat = await balance(caller)
        make_backup(settings, file, LOCK)
        taken = await caller("POST", "/v1/balance/withdrawals", {"way": "ecash", "amount_sat": 60})
        receiver = await market.post("receiver")
        await receiver.wallet.receive(parse_token(taken.json["withdrawal"]["token"]))
        left_sat = sum((await desk.post.wallet.balance()).values())
    shutil.rmtree(settings.data)
    restored = await bring_back(market, settings, file, tmp_path)
    assert (restored.callers.owed_sat, restored.callers.coins_sat) == (had_sat, left_sat)
    assert restored.callers.finding is not None
    assert f"`tradepost wallet fund {had_sat - left_sat}`" in restored.callers.finding.step
    assert restored.audit.ok  # the books are right; what is short is told beside them


async def test_what_has_not_caught_up_is_not_opened(
    market: Market, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "post.age"
    async with open_desk(market, settings, [capitals()]) as desk:
        await fill(market, desk.post, 50)
        make_backup(settings, file, LOCK)
    shutil.rmtree(settings.data)

    async def killed(*_args: object, **_options: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:  # in the middle of putting it there: there is nothing then
        patch.setattr(tradepost.backup_restore, "_write", dies_at(3))
        patch.setattr(shutil, "rmtree", lambda *_args, **_options: None)
        with pytest.raises(RuntimeError, match="killed"):
            await bring_back(market, settings, file, tmp_path)
    assert not settings.data.exists()
    with monkeypatch.context() as patch:
        patch.setattr(tradepost.backup_restore, "restore_post", killed)
        with pytest.raises(RuntimeError, match="killed"):
            await bring_back(market, settings, file, tmp_path)
    with pytest.raises(ConfigError, match="run `tradepost restore`"):
        async with open_post(settings, **memory(market)):
            pass
    market.mint.down = True
    report = await restore_post(settings, None, **memory(market))
    assert "each of its mints" in report.troubles[-1]
    with pytest.raises(ConfigError, match="run `tradepost restore`"):
        async with open_post(settings, **memory(market)):
            pass
    market.mint.down = False
    report = await restore_post(settings, None, **memory(market))
    assert (report.balance_sat, report.troubles) == (50, ())
    async with open_post(settings, **memory(market)) as post:
        assert sum((await post.wallet.balance()).values()) == 50


async def test_sessions_of_before_are_over(
    market: Market, settings: Settings, caller: Caller, stranger: Caller, tmp_path: Path
) -> None:
    file = tmp_path / "post.age"
    async with open_desk(market, settings):
        begun = await caller("POST", "/v1/auth/sessions")
        assert begun.status in (200, 201), begun.text
        make_backup(settings, file, LOCK)
    shutil.rmtree(settings.data)
    await bring_back(market, settings, file, tmp_path)
    async with open_desk(market, settings):
        again = await stranger("POST", "/v1/auth/refresh", {"refresh": begun.json["refresh"]})
        assert again.status == 401
        assert "backup" in again.json["message"]
