"""`tradepost init` and `tradepost up`: make an agent, and run it."""

import asyncio
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dvm import Agent, Post, Provider
from dvm.discovery.announce import announcement, heartbeat
from dvm.discovery.profile import introductions
from dvm.escrow.agreement import ARBITRATION
from dvm.kinds import name_of
from identity import Npub, encode_npub
from relay_bridge import RelayChange
from store import SystemClock
from tradepost.api import agent_keys, serve
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say
from tradepost.cli.signing import Sec, print_unsigned, tell_source
from tradepost.declared import agents_of
from tradepost.post import own_key, reach
from tradepost.project import make_project
from tradepost.settings import ARBITER, Settings


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(init)
    app.command()(up)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder; its name becomes the agent's.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a new agent project.

    It has a manifest (tradepost.yaml), code (agent.py) and a .gitignore that keeps keys out of git.

    Example: `tradepost init shop`
    """
    files = make_project(folder)
    if as_json:
        print_json({"folder": str(folder), "files": [path.name for path in files]})
        return
    for path in files:
        print_text(str(path))
    say(
        f"Next: write your function in {quoted(str(files[1]))}, then `tradepost up {quoted(shlex.quote(str(folder)))}`"
    )


def up(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder.")] = Path(),
    sec: Sec = "",
    as_json: AsJson = False,
) -> None:
    """Run the agents of a project until you interrupt it.

    And its arbiter, if it has one. What was under way then goes on at the next start. When you change `relays:` in
    tradepost.yaml, it goes over to those at once.

    Example: `tradepost up shop`
    """
    settings = Settings.load(folder)
    only_arbiter = settings.arbiter and not settings.agents and not Path(settings.code).exists()
    agents = [] if only_arbiter else agents_of(settings, folder)
    keys = agent_keys(agents, settings, sec)
    for key in keys[:1]:
        tell_source(key, sec)
        if isinstance(key.value, Npub):
            _print_unsigned(agents[0], key.value.public_key, settings.relays)
            return

    async def ready(providers: Sequence[Provider], post: Post) -> None:
        for provider in providers:
            _print_open(provider, post.pool.urls, as_json)
        if settings.arbiter:
            _print_arbiter(settings, post.pool.urls, as_json)
        if unreachable := await reach(post.pool):
            say(f"[yellow]{quoted(unreachable)}; still trying[/]")

    def changed(change: RelayChange) -> None:
        _print_change(change, as_json)

    asyncio.run(serve(agents, settings, keys=keys, on_ready=ready, on_relays=changed))


def _print_unsigned(agent: Agent, public_key: str, relays: Sequence[str]) -> None:
    """What the agent publishes when it starts for the first time; its name is left out, for that is to be checked."""
    now = SystemClock().now()
    profile = introductions(agent, relays, {}, None, now)
    print_unsigned(public_key, announcement(agent, now), heartbeat(agent, now), *profile)


def _print_arbiter(settings: Settings, relays: Sequence[str], as_json: bool) -> None:
    public_key, fee_sat = own_key(settings, ARBITER).public_key, settings.arbiter_fee_sat
    npub = encode_npub(public_key)
    if as_json:
        print_json({"arbiter": npub, "pubkey": public_key, "fee_sat": fee_sat, "relays": relays})
        return
    say(
        f"[green]●[/] the arbiter is open on {', '.join(relays)}; parties name it in tradepost.yaml, under arbiters:"
    )
    print_text(npub)
    if fee_sat:
        say(f"  {ARBITRATION} {name_of(ARBITRATION)}, {fee_sat} sat for hearing a dispute")


def _print_change(change: RelayChange, as_json: bool) -> None:
    if as_json:
        print_json({"relays_added": change.added, "relays_left": change.left})
        return
    if change.added:
        say(f"[green]●[/] now also on {', '.join(change.added)}")
    if change.left:
        say(f"[yellow]●[/] no more on {', '.join(change.left)}")


def _print_open(provider: Provider, relays: Sequence[str], as_json: bool) -> None:
    npub, capabilities = encode_npub(provider.public_key), provider.agent.capabilities.values()
    if as_json:
        told = {"agent": provider.agent.name, "npub": npub, "pubkey": provider.public_key}
        offered = [{"kind": c.kind, "price_sat": c.price_sat} for c in capabilities]
        print_json({**told, "serves": offered, "relays": relays})
        return
    say(f"[green]●[/] {quoted(provider.agent.name)} is open on {', '.join(relays)}; Ctrl-C closes")
    print_text(npub)
    for capability in capabilities:
        price = f"{capability.price_sat} sat" if capability.price_sat else "free"
        say(f"  {capability.kind} {capability.name}, {price}")
