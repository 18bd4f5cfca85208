"""Job chaining (NIP-90, appendix 1): a job that works on the results of other jobs waits for them before it is begun.

An input of type job names the request of the other job, or its result. It may be asked for in the same moment, of
another provider, for money: that is its customer's affair, and its payment not ours. The relays are asked again and
again, at growing intervals, so that the wait costs no subscription and outlives every connection. Nothing of it is on
disk: the job is queued, and after a restart it waits again.

No job can wait for itself, or two for each other: an id is the hash of the event, with the ids that it names in it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dvm.errors import BadRequest, JobFailed
from dvm.escrow.parties import ProviderDesk
from dvm.jobs.inputs import pointer
from dvm.jobs.room import Neighbour, Room
from dvm.kinds import DELETION, FEEDBACK, is_request_kind, result_kind
from dvm.limits import ProviderLimits
from dvm.nip90 import ENCRYPTED, Input, JobRequest, Status, parse_feedback, parse_result, repeated_request
from dvm.post import Post
from dvm.queries import JobRow
from identity import Event
from identity.event import CREATED_AT_MAX
from relay_bridge import Filter, RelayBridgeError, usable_relays
from wallet.errors import Action

FIRST_SECONDS: Final = 0.5
LOOK_SECONDS_MAX: Final = 5.0
LATER_SECONDS_MAX: Final = 15.0
HINTS_MAX: Final = 2  # relays of others that one input keeps us connected to while it is waited for
ANSWERS_MAX: Final = 100  # events about a job that one relay is asked for
CLOCKS_APART_SECONDS: Final = 5
REASON_CHARACTERS_MAX: Final = 200

Reporter = Callable[[JobRow], Callable[[str, str], Awaitable[None]]]


def builds_on_jobs(inputs: Iterable[Input]) -> bool:
    """Whether there are results of other jobs to wait for."""
    return any(part.type == "job" and part.event is None for part in inputs)


class Chains:
    """The jobs of one agent that build on others. `report(job)` is how their customers are told."""

    def __init__(self, post: Post, desk: ProviderDesk, limits: ProviderLimits, report: Reporter) -> None:
        self._post = post
        self._desk = desk
        self._limits = limits
        self._report = report
        self._room = Room(limits.chained_jobs_max)

    async def inputs(
        self, job: JobRow, who: Neighbour, request: JobRequest, *, resumed: bool = False
    ) -> tuple[Input, ...]:
        """The inputs, each of type job with the result that it stands for; waits until all are there, in `who`'s place.

        `resumed`: it waited before the restart, and has its place whoever else does.

        Raises `JobFailed`, whose message is for the customer: at the latest when the request, the agent's patience or
        the escrow that pays for the job ends.
        """
        if not builds_on_jobs(request.inputs):
            return request.inputs
        if not resumed and not self._room.has(who):
            raise JobFailed(
                "too many jobs wait for others here; send it again when what it works on is there"
            )
        with self._room.held(who):
            return await self._wait(job, request.inputs, await self._until(job, request))

    async def _until(self, job: JobRow, request: JobRequest) -> int:
        escrow = await self._desk.get(job.id) if job.price_msat else None
        ends = (request.expires_at, escrow.terms.deliver_by if escrow else None)
        return min(
            job.updated_at + self._limits.chain_seconds_max, *(end for end in ends if end), CREATED_AT_MAX
        )

    async def _wait(self, job: JobRow, inputs: tuple[Input, ...], until: int) -> tuple[Input, ...]:
        waits = [_Wait(part, self._post, self._limits, until) for part in inputs if part.type == "job"]
        for wait in waits:
            await wait.look()
        if missing := [wait.id[:12] for wait in waits if wait.result is None]:
            await self._report(job)(f"waiting for the result of job {', '.join(missing)}", "")
        results = iter([await wait.finish() for wait in waits])
        return tuple(_with(part, next(results)) if part.type == "job" else part for part in inputs)


def _with(part: Input, result: Event) -> Input:
    return replace(part, fetched=result.content, event=result)


@dataclass(frozen=True)
class Seen:
    """What is known of a job from events that relays have: its request, and its result if it has one."""

    request: Event | None = None
    result: Event | None = None


def judge(job_id: str, events: Sequence[Event]) -> Seen:
    """What verified events say of a job. Pure. Raises `JobFailed` if there will be no result that can be worked on.

    If the request names its providers, only theirs is its result; else it is the first.
    """
    named = next((event for event in events if event.id == job_id), None)
    if named is not None and parse_result(named) is not None:
        return Seen(result=_readable(named, job_id))
    request = named or _quoted(job_id, events)
    if request is None:
        return Seen()
    if not is_request_kind(request.kind):
        raise JobFailed(f"the event {job_id[:12]} is of kind {request.kind}: no job, and no result of one")
    _readable(request, job_id)
    providers = _providers(request)
    answers = [
        event
        for event in events
        if event.tag("e") == job_id
        and (not providers or event.pubkey in providers)
        and event.created_at >= request.created_at - CLOCKS_APART_SECONDS
    ]
    results = [e for e in answers if e.kind == result_kind(request.kind) and not e.has_tag(ENCRYPTED)]
    if results:
        return Seen(request, min(results, key=lambda event: (event.created_at, event.id)))
    if any(e.kind == DELETION and e.pubkey == request.pubkey and ("e", job_id) in _pairs(e) for e in events):
        raise JobFailed(f"job {job_id[:12]} was taken back by its customer")
    errors = {event.pubkey: reason for event in answers if (reason := _error(event)) is not None}
    if providers and set(providers) <= errors.keys():
        raise JobFailed(f"job {job_id[:12]} has failed: {min(errors.values())[:REASON_CHARACTERS_MAX]}")
    return Seen(request)


def _providers(request: Event) -> tuple[str, ...]:
    """Who is to answer; none: whoever likes."""
    return tuple(tag[1] for tag in request.tags_named("p") if len(tag) > 1)


def _pairs(event: Event) -> list[tuple[str, ...]]:
    return [tag[:2] for tag in event.tags]


def _readable(event: Event, job_id: str) -> Event:
    if event.has_tag(ENCRYPTED):
        raise JobFailed(
            f"job {job_id[:12]} is encrypted, so only its customer can read the result: send that as text"
        )
    return event


def _quoted(job_id: str, events: Sequence[Event]) -> Event | None:
    """The request as a result of it holds it: relays drop requests when they expire."""
    repeated = filter(None, map(repeated_request, events))
    return next((request for request in repeated if request.id == job_id), None)


def _error(event: Event) -> str | None:
    """Why a provider gave a job up; None if it did not: some errors ask for another payment."""
    said = parse_feedback(event)
    if said is None or said.status != Status.ERROR or said.action not in (None, Action.GIVE_UP):
        return None
    return said.message or said.content or "its provider does not say why"


class _Wait:
    """The wait for one result."""

    def __init__(self, part: Input, post: Post, limits: ProviderLimits, until: int) -> None:
        self.id, hints = _job_id(part)
        self.result: Event | None = None
        self._post = post
        self._limits = limits
        self._until = until
        named = usable_relays([part.relay, *hints], relays_max=HINTS_MAX)
        self._relays = tuple(dict.fromkeys((*named, *post.pool.urls)))
        self._began_at = post.clock.now()
        self._request: tuple[Event, ...] = ()  # once it is known

    async def look(self) -> None:
        """Ask the relays once. Raises `JobFailed`."""
        asked = (self._ask(relay) for relay in self._relays)
        events = {event.id: event for found in await asyncio.gather(*asked) for event in found}
        seen = judge(self.id, [*self._request, *events.values()])
        self.result = seen.result
        self._request = (seen.request,) if seen.request else ()
        now, short = self._post.clock.now(), self.id[:12]
        if seen.result is None and seen.request is None:
            if now >= self._began_at + self._limits.fetch_seconds_max or now >= self._until:
                raise JobFailed(
                    f"the job {short} was not found on {len(self._relays)} relays; name one that has it in the i tag"
                )
        elif seen.result is None and now >= self._until:
            raise JobFailed(f"the job {short}, whose result this one works on, has none yet")

    async def finish(self) -> Event:
        """Ask until the result is there. Raises `JobFailed`."""
        seconds = FIRST_SECONDS
        while self.result is None:
            await self._post.clock.sleep(seconds)
            seconds = min(1.5 * seconds, LATER_SECONDS_MAX)
            await self.look()
        return self.result

    async def _ask(self, relay: str) -> list[Event]:
        try:
            return await self._post.pool.query(self._what(), relays=[relay], seconds_max=LOOK_SECONDS_MAX)
        except RelayBridgeError:  # too many relays just now, or one that may not be connected to
            return []

    def _what(self) -> list[Filter]:
        tags = {"e": (self.id,)}
        for request in self._request:  # so exactly that nobody can hide the answer behind other events
            kinds = (result_kind(request.kind), FEEDBACK)
            answers = Filter(kinds=kinds, authors=_providers(request) or None, tags=tags, limit=ANSWERS_MAX)
            return [answers, Filter(kinds=(DELETION,), authors=(request.pubkey,), tags=tags)]
        return [Filter(ids=(self.id,)), Filter(tags=tags, limit=ANSWERS_MAX)]


def _job_id(part: Input) -> tuple[str, tuple[str, ...]]:
    try:
        return pointer(part)
    except BadRequest as error:  # it was checked when the request came; the rules are others now
        raise JobFailed(str(error)) from None
