"""What a job is to work on: checked when the request comes, fetched when its work begins. Knows no money."""

import asyncio
import re
from dataclasses import replace
from typing import Final

from dvm.errors import BadRequest, JobFailed
from dvm.limits import ProviderLimits
from dvm.lookup import find_event
from dvm.nip90 import Input
from dvm.post import Post
from identity import Event, InvalidKey, nip19
from relay_bridge import FetchFailed, check_url, usable_relays

EVENT_RELAYS_MAX: Final = 8
_EVENT_ID: Final = re.compile(r"[0-9a-fA-F]{64}")


def check(inputs: tuple[Input, ...], limits: ProviderLimits) -> None:
    """Raise `BadRequest` if these inputs cannot be worked on, as far as can be told without fetching."""
    _check_size(inputs, limits)
    to_fetch = [part for part in inputs if part.type != "text"]
    if len(to_fetch) > limits.inputs_fetched_max:
        raise BadRequest(
            f"the request has {len(to_fetch)} inputs to fetch; this agent fetches {limits.inputs_fetched_max}"
        )
    for part in to_fetch:
        match part.type:
            case "url":
                try:
                    check_url(part.data)
                except FetchFailed as error:
                    raise BadRequest(str(error)) from None
            case _:
                pointer(part)


async def gather(
    inputs: tuple[Input, ...], post: Post, limits: ProviderLimits, *, links: bool = False
) -> tuple[Input, ...]:
    """Fetch what is not at hand, all of it at once, within the limits; URLs not if the work is on `links`.

    Results of other jobs are there already (`chaining.py`). Raises `JobFailed`, whose message is for the customer: one
    input that cannot be had ends it.
    """
    if all(part.type == "text" for part in inputs):
        return inputs
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_fetch(part, post, limits, links)) for part in inputs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    found = tuple(task.result() for task in tasks)
    try:
        _check_size(found, limits)
    except BadRequest as error:
        raise JobFailed(str(error)) from None
    return found


def _check_size(inputs: tuple[Input, ...], limits: ProviderLimits) -> None:
    size = sum(len((part.text or part.data).encode()) for part in inputs)
    if size > limits.input_bytes_max:
        raise BadRequest(f"the input has {size} bytes; this agent takes at most {limits.input_bytes_max}")


async def _fetch(part: Input, post: Post, limits: ProviderLimits, links: bool) -> Input:
    if part.type == "url" and links:
        return replace(part, fetched=part.data)
    if part.type == "url":
        try:
            found = await post.fetcher.text(
                part.data, bytes_max=limits.input_bytes_max, seconds_max=limits.fetch_seconds_max
            )
        except FetchFailed as error:
            raise JobFailed(str(error)) from None
        return replace(part, fetched=found.text, media_type=found.media_type)
    if part.type == "event":
        event = await _find(part, post, limits)
        return replace(part, fetched=event.content, event=event)
    return part


async def _find(part: Input, post: Post, limits: ProviderLimits) -> Event:
    """The event that an input names."""
    event_id, hints = pointer(part)
    relays = usable_relays([part.relay, *hints, *post.pool.urls], relays_max=EVENT_RELAYS_MAX)
    event = await find_event(post, event_id, relays, seconds_max=limits.fetch_seconds_max)
    if event is not None:
        return event
    raise JobFailed(
        f"the event {event_id[:12]} was not found on {len(relays)} relays; name one that has it in the i tag"
    )


def pointer(part: Input) -> tuple[str, tuple[str, ...]]:
    """The event id and the relay hints that an input names: hex, note or nevent. Raises `BadRequest`."""
    text = part.data.strip()
    if _EVENT_ID.fullmatch(text):
        return text.lower(), ()
    try:
        match nip19.decode(text):
            case nip19.Note(event_id):
                return event_id, ()
            case nip19.Nevent(event_id, relays):
                return event_id, relays
    except InvalidKey:
        pass
    raise BadRequest(
        f"an input of type {part.type} is the id of an event: 64 hex digits, a note or an nevent"
    )
