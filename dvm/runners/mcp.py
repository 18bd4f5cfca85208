"""A tool of an MCP server as an agent's work. Needs the extra: `pip install 'tradepost[mcp]'`."""

import asyncio
import importlib
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import structlog

from dvm.agent import Job, Runner
from dvm.errors import JobFailed, JobTimeout, RunnerUnusable
from dvm.runners.endpoint import Endpoint, endpoint
from dvm.runners.mcp_arguments import choose_arguments, parameters
from dvm.runners.task import read_answer
from dvm.schemas import Others, Param

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult, Tool

log = structlog.get_logger(__name__)

TOOLS_PAGES_MAX: Final = 20
SAID_BYTES: Final = 4096  # of what a server said last
LINE_CHARACTERS_MAX: Final = 300


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
) -> Runner:
    """Make a runner of `tool`, at a server with a `url` (and a bearer key), or one started for each job by `argv`, in
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
    called = _Tool(tool, server, text, dict(arguments or {}), seconds)
    return Runner(called.work, what=called.what, check=called.check, others=Others.IGNORED)


@dataclass(frozen=True)
class _Tool:
    """One tool, at its server."""

    name: str
    server: "Endpoint | _Program"
    text: str
    fixed: Mapping[str, Any] = field(repr=False)
    seconds: int

    @property
    def what(self) -> str:
        """What is shown of it."""
        return f"the MCP tool {self.name} of {self.server.where}"

    async def work(self, job: Job) -> str:
        """Call it for a job."""
        with _said() as said:
            try:
                result = await self._call(job, said)
            except TimeoutError:
                raise JobTimeout(f"the work took longer than {self.seconds} s and was given up") from None
            except Exception as error:  # noqa: BLE001 - the library and its transports raise anything, in groups too
                if isinstance(reason := _inner(error), JobFailed):
                    raise reason from None
                self._log("mcp_failed", job, said, error=type(reason).__name__)
                raise JobFailed("the agent's tool cannot be reached; try again later") from None
            if result.is_error:
                self._log("mcp_tool_failed", job, said, answered=_text(result)[:LINE_CHARACTERS_MAX])
                raise JobFailed("the agent's tool failed on this job")
        return read_answer(_text(result).encode())

    async def check(self) -> Sequence[Param]:
        """See whether it is there; returns its arguments. Raises `RunnerUnusable`."""
        with _said() as said:
            try:
                async with (
                    asyncio.timeout(self.seconds),  # the first start of a program may have to fetch it
                    _connected(self.server, self.seconds, said) as client,
                ):
                    tools = await _tools(client)
            except TimeoutError:
                raise RunnerUnusable(
                    f"{self.what} did not answer in {self.seconds} s: see that its server runs"
                ) from None
            except Exception as error:  # noqa: BLE001 - as above
                why = _last_line(said) or str(_inner(error))
                raise RunnerUnusable(
                    f"{self.what} cannot be reached ({why}): see that its server runs"
                ) from None
        if self.name not in tools:
            raise RunnerUnusable(
                f"the MCP server has no tool {self.name!r}, but {', '.join(sorted(tools)) or 'none'}"
            )
        return parameters(tools[self.name].input_schema, self.text, self.fixed)

    async def _call(self, job: Job, said: TextIO) -> "CallToolResult":
        async with asyncio.timeout(self.seconds), _connected(self.server, self.seconds, said) as client:
            known = (await _tools(client)).get(self.name)
            if known is None:
                log.error("mcp_tool_missing", tool=self.name)
                raise JobFailed("the agent's tool is missing; try again later")
            values = choose_arguments(known.input_schema, job, self.text)
            return await client.call_tool(self.name, values | dict(self.fixed))

    def _log(self, event: str, job: Job, said: TextIO, **more: str) -> None:
        """What a server says may hold what the customer sent encrypted. All of it is in the log of `debug` only."""
        if job.private:
            log.error(event, job=job.id, tool=self.name)
            return
        log.error(event, job=job.id, tool=self.name, said=_last_line(said), **more)
        log.debug("mcp_server_said", job=job.id, text=_tail(said))


@dataclass(frozen=True)
class _Program:
    """A server that is started for each job."""

    argv: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def where(self) -> str:
        """What is shown of it."""
        return self.argv[0]


@asynccontextmanager
async def _connected(server: Endpoint | _Program, seconds: int, said: TextIO) -> "AsyncIterator[Client]":
    """A session with the server. What one that is started says beside goes to `said`."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if isinstance(server, _Program):
        program, *rest = server.argv
        started = StdioServerParameters(
            command=program, args=rest, env=dict(server.environment), cwd=server.folder
        )
        async with Client(stdio_client(started, errlog=said), read_timeout_seconds=seconds) as client:
            yield client
        return
    import httpx2

    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=seconds, trust_env=False) as web,
        Client(
            streamable_http_client(str(server.url), http_client=web), read_timeout_seconds=seconds
        ) as client,
    ):
        yield client


async def _tools(client: "Client") -> dict[str, "Tool"]:
    cursor: str | None = None
    found: dict[str, Tool] = {}
    for _ in range(TOOLS_PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        found |= {tool.name: tool for tool in page.tools}
        if (cursor := page.next_cursor) is None:
            break
    return found


def _text(result: "CallToolResult") -> str:
    """The texts among what the tool gave; other content (images, links) has no place in a result."""
    return "\n\n".join(part.text for part in result.content if part.type == "text")


def _said() -> TextIO:
    """A nameless file for what a server says beside; on our own stderr it would hide what we say."""
    return cast("TextIO", tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))


def _tail(said: TextIO) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - SAID_BYTES))
    return said.read()


def _last_line(said: TextIO) -> str:
    lines = [line.strip() for line in _tail(said).splitlines() if line.strip()]
    return lines[-1][:LINE_CHARACTERS_MAX] if lines else ""


def _inner(error: BaseException) -> BaseException:
    """The first error in a group of them that is ours, else the first one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [_inner(one) for one in error.exceptions]
    return next((one for one in found if isinstance(one, JobFailed)), found[0])
