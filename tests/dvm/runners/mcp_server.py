"""An MCP server for the tests, on stdio or on the port it is given."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("tests")


@server.tool()
def repeat(text: str, times: int = 1) -> str:
    return text * times


@server.tool()
def environment(name: str) -> str:
    return os.environ.get(name, "none")


@server.tool()
def fail(text: str) -> str:
    raise RuntimeError("hunter2")


@server.tool()
def much(text: str) -> str:
    return text * 2_000_000


@server.tool()
def sleep(text: str) -> str:
    time.sleep(60)
    return text


@server.tool()
def two(left: str, right: str) -> str:
    return left + right


if sys.argv[1:]:
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
else:
    server.run("stdio")
