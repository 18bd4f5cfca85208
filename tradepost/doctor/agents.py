"""Check of a project's agents: does the code run, and do the relays know of them."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import dvm
from dvm.discovery.directory import ALIVE_SECONDS
from dvm.discovery.names import Leads, NameCheck, check_name
from dvm.errors import RunnerUnusable
from dvm.kinds import ANNOUNCEMENT, HEARTBEAT
from identity import Event, KeyFileError, SecretKey, read_key_file
from identity.nip05 import parse_name
from relay_bridge import Fetcher, Filter, RelayPool
from tradepost.declared import agents_of
from tradepost.doctor.finding import Finding, fail, ok, warn
from tradepost.doctor.records import lock_holder
from tradepost.doctor.setup import Setup
from tradepost.errors import TradepostError

QUERY_SECONDS_MAX = 5.0
_MEND: Final = "do as it says; `tradepost up` would not start before"


async def check_agents(setup: Setup) -> list[Finding]:
    """Nothing outside of a project. Runs the project's code, as `up` does, without serving."""
    if not setup.is_project:
        return []
    code = Path(setup.settings.code)
    if code.name == "agent.py" and not code.exists() and not setup.settings.agents:
        return [ok("agents", f"there is no {code.name} here: this post buys work and sells none")]
    try:
        with redirect_stdout(sys.stderr):  # what the code prints is no finding
            agents = agents_of(setup.settings, setup.folder)
    except TradepostError as error:
        return [fail("agents", str(error), _MEND)]
    findings = []
    if not setup.settings.mints and any(c.price_sat for a in agents for c in a.capabilities.values()):
        findings.append(
            fail("agents", "they ask for money and there is no mint", "export TRADEPOST_MINTS=https://…")
        )
    for agent in agents:
        findings += await check_runners(agent)
    is_open = lock_holder(setup.settings.data) is not None
    fetcher = Fetcher(allow_private=setup.settings.allow_private_urls)
    reachable = [facts.url for facts in await setup.relays if facts.connect_seconds is not None]
    async with RelayPool(reachable, clock=setup.clock) as pool:
        for agent in agents:
            key = _public_key(setup, agent)
            if key is None and setup.settings.key is None and not _key_file(setup, agent).exists():
                findings.append(ok("agents", f"{agent.name} has no key yet; `tradepost up` draws it"))
                continue
            if key is None:
                findings.append(
                    ok("agents", f"{agent.name}: not looked for, its key is not in a plain file here")
                )
                continue
            wanted = [Filter(kinds=(ANNOUNCEMENT, HEARTBEAT), authors=(key,))]
            found = {
                url: await pool.query(wanted, relays=[url], seconds_max=QUERY_SECONDS_MAX)
                for url in pool.urls
            }
            findings.append(judge_agent(agent, found, setup.clock.now(), is_open=is_open))
            if agent.nip05:
                findings.append(judge_name(agent, key, await check_name(fetcher, agent.nip05, key)))
    return findings


async def check_runners(agent: dvm.Agent) -> list[Finding]:
    """A line for each kind that something else does than the agent's own functions."""
    found = []
    for capability in agent.capabilities.values():
        if capability.runner is None:
            continue
        told = f"{agent.name}, {capability.name} ({capability.kind})"
        try:
            await capability.checked()
            found.append(ok("agents", f"{told}: {capability.runner.what} is there"))
        except RunnerUnusable as error:
            found.append(fail("agents", f"{told}: {error}", _MEND))
    return found


def judge_agent(agent: dvm.Agent, found: Mapping[str, list[Event]], now: int, *, is_open: bool) -> Finding:
    """What relays know of one agent (`found`: its announcements and heartbeats), against whether its post is open."""
    knowing = [
        url for url, events in found.items()
        if any(e.kind == ANNOUNCEMENT and e.tag("d") == agent.slug for e in events)
    ]  # fmt: skip
    beats = [e.created_at for events in found.values() for e in events if e.kind == HEARTBEAT]
    is_alive = bool(beats) and now - max(beats) <= ALIVE_SECONDS
    told = f"{agent.name} is announced at {len(knowing)} of {len(found)} relays"
    if not is_open:
        if knowing:
            return warn("agents", f"{told} and does not run: customers wait for it in vain", "tradepost up")
        return ok("agents", f"{agent.name} is closed; `tradepost up` opens it")
    if not knowing:
        return fail(
            "agents", f"{told}: nobody finds it", "see what is said of the relays, then start it anew"
        )
    if not is_alive:
        return warn("agents", f"{told}, without a heartbeat of late", "see what is said of the relays")
    return ok("agents", f"{told}, last heartbeat {max(0, now - max(beats))} s ago")


def judge_name(agent: dvm.Agent, key: str, check: NameCheck) -> Finding:
    """Whether the agent's NIP-05 name can be announced: only one that leads to its key (hex) is."""
    if check.leads is Leads.HERE:
        return ok("agents", f"{agent.name} is {check.name}")
    name = parse_name(agent.nip05)
    told = f"{check.name} is not announced as {agent.name}'s name: {check.said}"
    if check.leads is Leads.UNKNOWN:
        return warn("agents", told, f"see whether https://{name.place} answers, without a redirect")
    return fail("agents", told, f'let https://{name.place} hold {{"names": {{"{name.local}": "{key}"}}}}')


def _key_file(setup: Setup, agent: dvm.Agent) -> Path:
    return setup.settings.key_file(agent.slug)


def _public_key(setup: Setup, agent: dvm.Agent) -> str | None:
    path = _key_file(setup, agent)
    try:
        key = read_key_file(path) if path.exists() and setup.settings.key is None else None
    except KeyFileError:
        return None  # told by the check of the keys
    return key.public_key if isinstance(key, SecretKey) else None
