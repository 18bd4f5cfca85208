"""Checks of the post's data: who has it open, whether it is whole, and what money waits in it."""

import asyncio
import fcntl
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from store import Migration
from tradepost.doctor.finding import Finding, Level, fail, ok, warn
from tradepost.doctor.queries import Form, Records, read_form, read_records
from tradepost.doctor.setup import Setup
from tradepost.post import all_migrations
from tradepost.words import counted
from wallet import HttpTransport, WalletError
from wallet.mint import CoinState, MintClient

UNFINISHED_SECONDS = 120  # by then an operation is usually over, or its mint is in trouble
UNSENT_SECONDS = 600


async def check_lock(setup: Setup) -> list[Finding]:
    """Whether another process has the post open; that is no fault, but commands that move money must wait for it."""
    holder = lock_holder(setup.settings.data)
    if holder is None:
        return [ok("process", "no other process has the post open")]
    return [ok("process", f"open in process {holder}; what moves money has to wait until that ends")]


def lock_holder(folder: Path) -> str | None:
    """The id of the process that has the post of `folder` open, `unknown` if it did not say; None if there is none."""
    path = folder / "lock"
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back at once
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None


async def check_database(setup: Setup) -> list[Finding]:
    """Whether the database can be opened and is whole, and what it says of money and events."""
    path = setup.settings.database
    if not path.exists():
        return [ok("database", "none yet: made at first use")]
    if (mode := path.stat().st_mode & 0o777) & 0o077:
        return [
            fail(
                "database",
                f"{path} is open to other users (mode {mode:o}): its coins are theirs",
                f"chmod 600 {path}",
            )
        ]
    try:
        finding = judge_file(path, await asyncio.to_thread(read_form, path), all_migrations())
        if finding.level is not Level.OK:
            return [finding]
        records = await asyncio.to_thread(read_records, path)
    except sqlite3.OperationalError as error:
        return [fail("database", f"{path} cannot be read: {error}", f"chmod 600 {path}")]
    except sqlite3.DatabaseError as error:
        return [fail("database", f"{path} is damaged: {error}", "move it away, then `tradepost restore`")]
    now = setup.clock.now()
    known = setup.settings.mints
    return [finding, *judge_money(records, known, now)] + await _tokens(records) + judge_outbox(records, now)


def judge_file(path: Path, form: Form, migrations: Iterable[Migration]) -> Finding:
    """Its integrity, and whether this release can work with it."""
    if form.damage:
        return fail(
            "database", f"{path} is damaged: {form.damage[0]}", "move it away, then `tradepost restore`"
        )
    wanted = {(step.component, step.number): step.sha256 for step in migrations}
    later = [f"{component} {number}" for component, number in form.schema.keys() - wanted.keys()]
    if later:
        told = f"a later release wrote it: {', '.join(sorted(later))}"
        return fail("database", told, "pip install --upgrade tradepost")
    if any(wanted[step] != sha256 for step, sha256 in form.schema.items()):
        return fail("database", f"{path} has a schema of no release", "install the release that it came from")
    told = f"{path}, {path.stat().st_size / 1e6:.1f} MB, whole"
    return ok(
        "database", told if len(wanted) == len(form.schema) else f"{told}; the next start upgrades its schema"
    )


def judge_money(records: Records, mints: Iterable[str], now: int) -> list[Finding]:
    """What is unfinished, what is due, and what is at mints that the configuration does not name."""
    findings = []
    for mint, count, oldest in records.open_operations:
        told = f"{counted(count, 'unfinished exchange')} with {mint}, the oldest of {_moment(oldest)}"
        if now - oldest >= UNFINISHED_SECONDS:
            findings.append(warn("money", told, "tradepost settle"))
    if due_sat := sum(sat for sat, locktime in records.refunds if locktime < now):
        findings.append(
            warn("money", f"{due_sat} sat of failed orders can be taken back", "tradepost settle")
        )
    if locked := [(locktime, sat) for sat, locktime in records.refunds if locktime >= now]:
        last, locked_sat = max(locked)[0], sum(sat for _, sat in locked)
        told = f"{locked_sat} sat of failed orders are locked, the last until {_moment(last)}"
        findings.append(ok("money", told))
    if records.returning:
        findings.append(
            warn(
                "money",
                f"{counted(records.returning, 'payment')} on the way back to customers",
                "tradepost up",
            )
        )
    if records.open_invoices:
        findings.append(
            ok(
                "money",
                f"{counted(records.open_invoices, 'unpaid invoice')}; `tradepost settle` fetches what is paid",
            )
        )
    for mint, sat in records.owned_sat.items():
        if mint not in mints:
            findings.append(
                warn(
                    "money", f"{sat} sat are at {mint}, which is not among the mints", f"add {mint} to mints"
                )
            )
    held_sat = sum(sat for mint, sat in records.owned_sat.items() if mint in mints)
    return [ok("money", f"{held_sat} sat at the mints of the configuration"), *findings]


def judge_outbox(records: Records, now: int) -> list[Finding]:
    """Events that relays should have by now."""
    if not records.unsent or now - records.unsent_since < UNSENT_SECONDS:
        return []
    told = f"{counted(records.unsent, 'event')} not yet at relays, the oldest since {_moment(records.unsent_since)}"
    return [warn("outbox", told, "tradepost settle")]


def judge_tokens(mint: str, amounts_sat: Mapping[str, int], unclaimed: Iterable[str]) -> list[Finding]:
    """Of tokens made with `wallet send`, by what their mint says. `unclaimed` are Ys."""
    sat = sum(amounts_sat[y] for y in unclaimed)
    if not sat:
        return []
    told = f"{sat} sat in tokens that were made with `wallet send` are not claimed yet, at {mint}"
    return [
        warn(
            "money", told, "give the token to whom it is for, or take it back: tradepost wallet receive TOKEN"
        )
    ]


async def _tokens(records: Records) -> list[Finding]:
    found: list[Finding] = []
    for mint, amounts_sat in records.tokens.items():
        client = MintClient(mint, HttpTransport(mint))
        try:
            async with asyncio.timeout(10):
                states = await client.check_state(list(amounts_sat))
        except (WalletError, TimeoutError):
            continue  # the check of the mint says so
        finally:
            await client.close()
        found += judge_tokens(
            mint, amounts_sat, [y for y, s in states.items() if s.state is CoinState.UNSPENT]
        )
    return found


def _moment(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
