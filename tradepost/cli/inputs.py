"""What a job is to work on, as the command line names it: texts, files, URLs, events, and the results of other jobs."""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from dvm import Post, queries
from dvm.errors import BadRequest
from dvm.jobs.inputs import pointer
from dvm.nip90 import ENCRYPTED, INPUT_TYPES, Input
from dvm.schemas import SCHEMAS
from tradepost.errors import TradepostError

Text = Annotated[
    str | None,
    typer.Argument(metavar="INPUT", help="The input as text; `@file` reads a file, `-` reads stdin."),
]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="TYPE:WHAT",
        help="One more input: `url:https://…`, `event:ID`, `job:ID` (the result of that job, once it is there) or"
        " `text:…`; `ID@wss://…` says which relay has it. May be repeated.",
    ),
]
_ID_BEGINS: Final = re.compile("[0-9a-f]{1,63}")


def read_inputs(text: str | None, more: Sequence[str]) -> tuple[Input, ...]:
    """The inputs in the order in which they were given, the text first. Raises `TradepostError`, `BadRequest`."""
    return (*([] if text is None else [Input(read_text(text))]), *map(_input, more))


def check_any(inputs: Sequence[Input], kind: int) -> None:
    """Raise `TradepostError` if there are none, unless that is usual for `kind`."""
    if not inputs and (kind not in SCHEMAS or SCHEMAS[kind].inputs_min):
        raise TradepostError("there is nothing to work on: write INPUT as text, @file or -, or say --input")


async def name_jobs(post: Post, inputs: Sequence[Input]) -> tuple[Input, ...]:
    """The same with jobs that we asked for by their whole ids, and with a relay where these are found.

    Raises `TradepostError` for the beginning of an id that is not of one of our orders, or of a private one.
    """
    return tuple([await _name_job(post, part) if part.type == "job" else part for part in inputs])


def read_text(text: str) -> str:
    """The text itself, or what is in a file or on stdin. Raises `TradepostError`."""
    try:
        if text == "-":
            return sys.stdin.read()
        return Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
    except OSError as error:
        raise TradepostError(
            f"{text[1:]} cannot be read: {error.strerror}; write INPUT as text, @file or -"
        ) from None
    except UnicodeDecodeError:
        raise TradepostError("the input is not text in UTF-8") from None


def _input(told: str) -> Input:
    if told.startswith(("http://", "https://")):
        return Input(told, "url")
    kind, _, data = told.partition(":")
    if kind not in INPUT_TYPES or not data:
        raise TradepostError(f"--input {told[:60]!r}: write it as url:https://…, event:ID, job:ID or text:…")
    if kind == "text":
        return Input(read_text(data))
    if kind == "url":
        if not data.startswith(("http://", "https://")):
            raise TradepostError(f"--input {told[:60]!r}: a URL begins with https:// or http://")
        return Input(data, kind)
    event_id, _, relay = data.removeprefix("nostr:").partition("@")
    part = Input(event_id, kind, relay)
    if kind != "job" or not _ID_BEGINS.fullmatch(event_id.lower()):
        pointer(part)
    return part


async def _name_job(post: Post, part: Input) -> Input:
    relay = part.relay or post.pool.urls[0]
    try:
        job_id, hints = pointer(part)
    except BadRequest:
        job_id, hints = part.data.lower(), ()
    rows = await queries.find_orders(post.db, job_id)
    if len(rows) != 1 and len(job_id) < 64:
        found = "several jobs that you asked for begin" if rows else "no job that you asked for begins"
        raise TradepostError(f"{found} with {part.data!r}; `tradepost jobs` lists them")
    if rows and rows[0].request.has_tag(ENCRYPTED):
        raise TradepostError(
            f"job {rows[0].id[:12]} was private, so no agent can read its result: give that as text"
        )
    return replace(part, data=rows[0].id if rows else part.data, relay="" if hints else relay)
