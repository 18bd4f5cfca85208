"""`tradepost relays`: what is known of relays, for people and for programs."""

from typing import TYPE_CHECKING

from relay_bridge import RelayHealth
from relay_bridge.queries import save_relay_record
from tradepost.post import open_database
from tradepost.settings import Settings

if TYPE_CHECKING:
    import pytest
    from conftest import AsyncCli

OURS, UNTRIED, VISITED = "wss://ours.example", "wss://untried.example", "wss://visited.example"


async def test_relays_are_listed_ours_first_and_the_best_first(
    cli_beside: "AsyncCli", monkeypatch: "pytest.MonkeyPatch"
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", f"{UNTRIED},{OURS}")
    told = await cli_beside("relays")
    assert (
        told.err
        == "nothing is known of them yet: `tradepost up` finds out, `tradepost doctor` tries them now\n"
    )
    ours, visited = RelayHealth(OURS), RelayHealth(VISITED, refused={"unasked": 7})
    for _ in range(20):
        ours.keeps(0.25)
        visited.breaks()
    async with await open_database(Settings.load()) as db, db.transaction() as tx:
        for health in (visited, ours):
            await save_relay_record(tx, health, 1_700_000_000)
    told = await cli_beside("relays")
    assert told.err == ""
    assert told.out.splitlines() == [
        f"0.75  {OURS}  did 20 of 20, in 0.25 s",
        f"0.50  {UNTRIED}  did 0 of 0",
        f"0.06  {VISITED} (visited)  did 0 of 20, 7 messages refused",
    ]
    best, _, worst = (await cli_beside("relays", "--json")).lines
    assert best == {
        "relay": OURS, "own": True, "rank": 0.751, "kept": 20, "broken": 0, "answer_seconds": 0.25,
        "failures": 0, "refused": 0, "error": None,
    }  # fmt: skip
    assert (worst["own"], worst["refused"]) == (False, 7)
