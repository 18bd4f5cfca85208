"""What can be behind an agent besides a Python function: a command, an HTTP API, a model endpoint, an MCP server.

Each makes a `Runner`, which an agent serves like any function: `agent.serves(5050, 10)(command("./upper.sh"))`. It can
be tried before anybody pays for it: `Agent.check`.
"""

from dvm.runners.command import command
from dvm.runners.http import http
from dvm.runners.mcp import mcp
from dvm.runners.openai import openai
from dvm.runners.sandbox import SandboxLimits

__all__ = ["SandboxLimits", "command", "http", "mcp", "openai"]
