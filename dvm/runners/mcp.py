"""A tool of an MCP server as an agent's work. Needs the extra: `pip install 'tradepost[mcp]'`."""

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from dvm.agent import Job
from dvm.errors import JobFailed, JobTimeout, RunnerUnusable
from dvm.runners.endpoint import Endpoint, endpoint
from dvm.runners.task import read_answer

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

log = structlog.get_logger(__name__)

TOOLS_PAGES_MAX: Final = 20


def mcp(
    tool: str,
    *,
    url: str = "",
    argv: Sequence[str] = (),
    key: str | None = None,
    folder: Path | str = ".",
    environment: Sequence[str] = (),
    text: str = "",
    arguments: Mapping[str, Any] | None = None,
    seconds: int = 60,
) -> Callable[[Job], Awaitable[str]]:
    """Make a `Work` of `tool`, at a server with a `url` (and a bearer key), or one started for each job by `argv`, in
    `folder`.

    The tool gets the job's text as its argument `text` (by default the only text that it must have), the request's
    parameters that it knows, and `arguments`, which win. A server that is started is the owner's own program: it is not
    in a sandbox, and gets of our environment what `environment` names. Raises `RunnerUnusable`.
    """
    if not tool or bool(url) == bool(argv):
        raise RunnerUnusable("an MCP tool needs its name, and either the server's address or its command")
    try:
        importlib.import_module("mcp")  # most of a second: now, not while the post serves
    except ImportError:
        raise RunnerUnusable("MCP servers need a library; run `pip install 'tradepost[mcp]'`") from None
    if missing := [name for name in environment if name not in os.environ]:
        raise RunnerUnusable(f"the environment variable {missing[0]}, which {argv[0]} is to get, is not set")
    server: Endpoint | _Program
    if url:
        server = endpoint(url, key, seconds)
    else:
        server = _Program(tuple(argv), Path(folder), {name: os.environ[name] for name in environment})
    fixed = dict(arguments or {})

    async def work(job: Job) -> str:
        try:
            async with asyncio.timeout(seconds), AsyncExitStack() as stack:
                client = await _connect(stack, server, seconds)
                known = await _find(client, tool)
                values = choose_arguments(known.input_schema, job, text) | fixed
                result = await client.call_tool(tool, values)
        except TimeoutError:
            raise JobTimeout(f"the work took longer than {seconds} s and was given up") from None
        except JobFailed:
            raise
        except Exception as error:  # noqa: BLE001 - the library and its transports raise anything, in groups too
            if reason := _own(error):
                raise reason from None
            log.error("mcp_failed", job=job.id, tool=tool, error=type(error).__name__)
            raise JobFailed("the agent's tool cannot be reached; try again later") from None
        if result.is_error:
            log.error("mcp_tool_failed", job=job.id, tool=tool)
            raise JobFailed("the agent's tool failed on this job")
        return read_answer(_text(result).encode())

    return work


def choose_arguments(schema: Mapping[str, Any], job: Job, text: str) -> dict[str, Any]:
    """The tool's arguments that the job has. Raises `JobFailed` if a parameter has the wrong type."""
    properties: dict[str, Any] = schema.get("properties") or {}
    if not text:
        texts = [name for name in schema.get("required", ()) if _type(properties, name) == "string"]
        if len(texts) != 1:
            log.error("mcp_argument_unclear", needed=sorted(properties), next="name the argument: `text`")
            raise JobFailed("the agent is not set up for this tool")
        text = texts[0]
    values = {
        name: _value(name, job.param(name), _type(properties, name)) for name in properties if job.param(name)
    }
    return values | {text: job.text}


def _type(properties: Mapping[str, Any], name: str) -> str:
    found = properties.get(name)
    return str(found.get("type", "")) if isinstance(found, dict) else ""


def _value(name: str, value: str, wanted: str) -> Any:
    try:
        match wanted:
            case "integer":
                return int(value)
            case "number":
                return float(value)
            case "boolean":
                return {"true": True, "false": False}[value.lower()]
            case "array" | "object":
                raise ValueError
            case _:
                return value
    except (ValueError, KeyError):
        raise JobFailed(
            f"the parameter {name} cannot be given to the agent's tool: it takes {wanted}"
        ) from None


@dataclass(frozen=True)
class _Program:
    """A server that is started for each job."""

    argv: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)


async def _connect(stack: AsyncExitStack, server: Endpoint | _Program, seconds: int) -> "Client":
    """A session with the server, ended with `stack`."""
    from mcp import Client, StdioServerParameters
    from mcp.client.streamable_http import streamable_http_client

    if isinstance(server, _Program):
        program, *rest = server.argv
        started = StdioServerParameters(
            command=program, args=rest, env=dict(server.environment), cwd=server.folder
        )
        return await stack.enter_async_context(Client(started, read_timeout_seconds=seconds))
    import httpx2

    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    web = httpx2.AsyncClient(headers=headers, timeout=seconds, trust_env=False)
    await stack.enter_async_context(web)
    transport = streamable_http_client(str(server.url), http_client=web)
    return await stack.enter_async_context(Client(transport, read_timeout_seconds=seconds))


async def _find(client: "Client", name: str) -> "Tool":
    cursor: str | None = None
    for _ in range(TOOLS_PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            if tool.name == name:
                return tool
        if (cursor := page.next_cursor) is None:
            break
    log.error("mcp_tool_missing", tool=name)
    raise JobFailed("the agent's tool is missing; try again later")


def _text(result: "CallToolResult") -> str:
    """The texts among what the tool gave; other content (images, links) has no place in a result."""
    return "\n\n".join(part.text for part in result.content if part.type == "text")


def _own(error: BaseException) -> JobFailed | None:
    """The `JobFailed` in a group of errors, if there is one."""
    if isinstance(error, JobFailed):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((found for found in map(_own, inner) if found), None)
