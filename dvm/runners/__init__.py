"""What can be behind an agent besides a Python function: a command, an HTTP API, a model endpoint, an MCP server.

Each makes a `Work`, so an agent serves it like any function: `agent.serves(5050, 10)(command("./upper.sh"))`.
"""

from dvm.runners.command import command

__all__ = ["command"]
