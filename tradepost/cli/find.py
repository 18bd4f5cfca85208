"""`tradepost find`: which agents there are for a job, whether they are alive, what they ask and how quick they are."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import typer

from dvm import Listing, NoAgentFound
from dvm.discovery.directory import (
    RECENT_SECONDS,
    Answers,
    Wanted,
    listings,
    measured,
    ranked,
    requests_answered,
    requests_repeated,
    with_answers,
)  # fmt: skip
from dvm.discovery.names import Leads, NameCheck, check_name
from dvm.discovery.profile import PROFILE, announced_name
from dvm.kinds import ANNOUNCEMENT, FEEDBACK, HEARTBEAT, NAMES, name_of, result_kind
from dvm.nip90 import Input, make_request
from identity import Event, SecretKey, encode_npub, sign_event
from relay_bridge import Fetcher, Filter, RelayPool
from store import SystemClock
from tradepost.cli.completing import complete_capability
from tradepost.cli.output import AsJson, age, price_words, print_json, print_text, quoted, result, status
from tradepost.errors import TradepostError
from tradepost.post import reach
from tradepost.settings import Settings
from tradepost.words import counted

QUERY_SECONDS_MAX: Final = 5.0
PROBE_SECONDS_MAX: Final = 10.0
ANNOUNCEMENTS_MAX: Final = 500  # that a relay is asked for when only words are given
AGENTS_MAX: Final = 200
ANSWERS_MAX: Final = 500  # of all agents together, the newest
MEASURED_SECONDS: Final = 7 * 86_400
IDS_PER_QUESTION: Final = 100  # relays commonly refuse longer lists
MARKS: Final = {Leads.HERE: "[green]✓[/]", Leads.ELSEWHERE: "[red]✗[/]", Leads.UNKNOWN: "[yellow]?[/]"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(find)


def find(
    capability: Annotated[
        str,
        typer.Argument(
            metavar="CAPABILITY",
            help="A kind (5001), what it is called (summarisation), or words of the agent's name and description.",
            autocompletion=complete_capability,
        ),
    ],
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=200, help="How many at most.")] = 20,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Send each live one a small job, with a key used once, and time its first answer. "
            "Free ones do the job; nobody is paid.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List agents by what they do, the live and cheap ones first.

    Answer times are medians over the last week's jobs that your relays still hold, by the dates on requests and
    answers: whole seconds, and dates can lie. A name like bob@example.com (NIP-05) is marked ✓ if its domain, which
    is asked, says that it is the agent's. Example: `tradepost find translation`
    """
    found = asyncio.run(_find(Wanted.parse(capability.strip()), limit, probe))
    for one in found:
        if as_json:
            print_json(_plain(one))
        else:
            _print(one)


@dataclass(frozen=True)
class _Found:
    listing: Listing
    now: int
    relays: tuple[str, ...]
    #: Seconds until the first answer to a probe, by our own clock; None: none came. Not probed if `probed` is False.
    probe_seconds: float | None = None
    probed: bool = False
    #: Whether the NIP-05 name that it claims is its own; None: it claims none.
    name: NameCheck | None = None


async def _find(wanted: Wanted, limit: int, probe: bool) -> list[_Found]:
    settings, clock = Settings.load(), SystemClock()
    async with RelayPool(settings.relays, clock=clock) as pool:
        if unreachable := await reach(pool):
            raise TradepostError(f"{unreachable}. Name others in tradepost.yaml or TRADEPOST_RELAYS")
        with status.status("asking the relays …"):
            now = clock.now()
            found = ranked(await _search(pool, wanted, now), now)[:limit]
        if not found:
            raise NoAgentFound(
                f"nobody announces {wanted.text!r} on {', '.join(pool.urls)}. Try a kind's number or name "
                f"({', '.join(list(NAMES.values())[:4])}, …), or other relays with TRADEPOST_RELAYS"
            )
        with status.status("asking where their names lead …"):
            names = await _names(pool, Fetcher(allow_private=settings.allow_private_urls), found)
        named = [_Found(one, now, pool.urls, name=names.get(one.public_key)) for one in found]
        if not probe:
            return named
        with status.status("sending each live agent a small job …"):
            times = await asyncio.gather(*(_probe(pool, one, wanted) for one in found if one.alive))
        return [
            replace(one, probe_seconds=times.pop(0), probed=True) if one.listing.alive else one
            for one in named
        ]


async def _names(pool: RelayPool, fetcher: Fetcher, found: Sequence[Listing]) -> dict[str, NameCheck]:
    """By agent, what came of asking for the NIP-05 name in its profile."""
    authors = tuple({one.public_key for one in found})
    profiles = await _ask(pool, Filter(kinds=(PROFILE,), authors=authors))
    claimed = {event.pubkey: announced_name(event) for event in reversed(profiles)}  # the newest of each
    checks = [(key, check_name(fetcher, name, key)) for key, name in claimed.items() if name]
    checked = await asyncio.gather(*(check for _, check in checks))
    return {key: check for (key, _), check in zip(checks, checked, strict=True)}


async def _search(pool: RelayPool, wanted: Wanted, now: int) -> list[Listing]:
    """Who fits, with what is known of their liveness and answers. Bounded whatever relays send."""
    known = tuple(str(kind) for kind in wanted.kinds or NAMES)
    questions = [Filter(kinds=(ANNOUNCEMENT,), tags={"k": known}, limit=ANNOUNCEMENTS_MAX)]
    if not wanted.text.isdigit():
        questions.append(Filter(kinds=(ANNOUNCEMENT,), limit=ANNOUNCEMENTS_MAX))
    announced = await _ask(pool, *questions)
    fitting = [one for one in listings(announced, (), now) if wanted.fits(one)]
    authors = tuple(dict.fromkeys(one.public_key for one in ranked(fitting, now)))[:AGENTS_MAX]
    if not authors:
        return []
    kinds = tuple({result_kind(kind) for one in fitting for kind in one.kinds})[:AGENTS_MAX]
    since = now - MEASURED_SECONDS
    beats, answers = await asyncio.gather(
        _ask(pool, Filter(kinds=(HEARTBEAT,), authors=authors)),
        _ask(pool, Filter(kinds=(FEEDBACK, *kinds), authors=authors, since=since, limit=ANSWERS_MAX)),
    )
    repeated = requests_repeated(answers)
    ids = tuple(id_ for id_ in requests_answered(answers) if id_ not in repeated)[:ANSWERS_MAX]
    lists = [ids[start : start + IDS_PER_QUESTION] for start in range(0, len(ids), IDS_PER_QUESTION)]
    asked = [event for some in lists for event in await _ask(pool, Filter(ids=some))]
    times = measured(answers, [*repeated.values(), *asked], now)
    mine = [event for event in announced if event.pubkey in authors]
    return [with_answers(one, times) for one in listings(mine, beats, now, wanted.kinds) if wanted.fits(one)]


async def _ask(pool: RelayPool, *questions: Filter) -> list[Event]:
    return await pool.query(questions, seconds_max=QUERY_SECONDS_MAX)


async def _probe(pool: RelayPool, agent: Listing, wanted: Wanted) -> float | None:
    """Seconds from the publishing of a job to the first word from the agent, by our own clock; None if none comes."""
    kind = next((kind for kind in agent.kinds if kind in wanted.kinds), agent.kinds[0])
    key, now, loop = SecretKey.generate(), SystemClock().now(), asyncio.get_running_loop()
    template = make_request(
        kind, [Input(f"Are you there? {secrets.token_hex(4)}")], params={}, provider=agent.public_key, bid_msat=0,
        relays=pool.urls, mints=(), lock=SecretKey.generate().compressed_public_key,
        expires_at=now + int(PROBE_SECONDS_MAX), now=now,
    )  # fmt: skip
    request = sign_event(template, key)
    answered: asyncio.Future[float] = loop.create_future()

    def note(_event: Event, _relay: str) -> None:
        if not answered.done():
            answered.set_result(loop.time())

    answer = Filter(
        kinds=(FEEDBACK, result_kind(kind)), authors=(agent.public_key,), tags={"e": (request.id,)}
    )
    subscription = await pool.subscribe([answer], note)
    try:
        await subscription.eose()
        started = loop.time()
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            await pool.publish(request)
            return await answered - started
    except TimeoutError:
        return None
    finally:
        await subscription.close()


def _plain(found: _Found) -> dict[str, Any]:
    one, name = found.listing, found.name
    return {
        "npub": encode_npub(one.public_key), "pubkey": one.public_key, "name": one.name, "about": one.about,
        "kinds": [{"kind": k, "name": name_of(k), "price_msat": one.prices_msat[k]} for k in one.kinds],
        "price_msat": one.price_msat, "alive": one.alive, "heartbeat_at": one.beat_at, "announced_at": one.announced_at,
        "answers": {
            "jobs": one.answers.jobs, "first_seconds": one.answers.first_seconds,
            "result_seconds": one.answers.result_seconds, "last_at": one.answers.last_at, "clock": "created_at",
        },
        "nip05": {"name": name.name, "leads": name.leads, "said": name.said or None} if name else None,
        "probe": {"first_seconds": found.probe_seconds, "clock": "ours"} if found.probed else None,
        "relays": found.relays,
    }  # fmt: skip


def _print(found: _Found) -> None:
    one = found.listing
    name = f"[bold]{quoted(one.name or '(no name)')}[/]"
    mark = "[green]●[/]" if one.alive else "[dim]○[/]"
    facts = [_liveness(one, found.now), *_speed(one.answers, found)]
    result.print(
        f"{mark} {name}  [cyan]{price_words(one.price_msat)}[/]  [dim]{', '.join(facts)}[/]",
        soft_wrap=_flat(),
    )
    print_text(encode_npub(one.public_key))
    if found.name:
        said = f": not its name, {found.name.said}" if found.name.leads is Leads.ELSEWHERE else ""
        said = f": not checked, {found.name.said}" if found.name.leads is Leads.UNKNOWN else said
        result.print(f"  {MARKS[found.name.leads]} {quoted(found.name.name + said)}", soft_wrap=_flat())
    for kind in one.kinds[:8]:
        price = one.prices_msat[kind]
        told = f", {price_words(price)}" if len(one.kinds) > 1 and price != one.price_msat else ""
        result.print(f"  {kind} {name_of(kind)}{told}", soft_wrap=_flat())
    if one.about:
        result.print(f"  [dim]{quoted(one.about)}[/]", soft_wrap=_flat())


def _flat() -> bool:
    return not result.is_terminal


def _liveness(one: Listing, now: int) -> str:
    if one.beat_at is not None:
        beat = f"heartbeat {age(now - one.beat_at)} ago"
        return beat if one.alive else f"silent: last {beat}"
    last_at = one.answers.last_at
    if last_at is not None and now - last_at <= RECENT_SECONDS:
        return f"no heartbeat, but it answered {age(now - last_at)} ago"
    return f"no heartbeat, announced {age(now - one.announced_at)} ago"


def _speed(answers: Answers, found: _Found) -> list[str]:
    told = []
    if found.probed:
        seconds = found.probe_seconds
        told.append("probe: no answer" if seconds is None else f"probe: {seconds:.2f} s")
    jobs = f"{counted(answers.jobs, 'job')}, by their dates"
    if answers.result_seconds is not None:
        told.append(f"result in {_seconds(answers.result_seconds)} ({jobs})")
    elif answers.first_seconds is not None:
        told.append(f"first answer in {_seconds(answers.first_seconds)} ({jobs})")
    return told or ["no answers seen"]


def _seconds(median: float) -> str:
    """Dates are whole seconds: less than one cannot be told."""
    return age(round(median)) if median >= 1 else "under 1 s"
