"""Customers made by others, each a process of its own that prints what it hears as JSON lines."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
_GRACE_SECONDS = 15  # for the process to start and end, over the time the customer itself waits


@dataclass(frozen=True)
class Heard:
    """What a customer heard until it ended."""

    code: int  # 0: what it waited for came; 3: the provider said error; 4: nothing came in time
    lines: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one type: request, feedback, result, wrap or rejected."""
        return [line for line in self.lines if line["type"] == kind]

    @property
    def statuses(self) -> list[str]:
        """The statuses of the feedback, in order."""
        return [line["status"] for line in self.of("feedback")]


Customer = Callable[..., Awaitable[Heard]]


def _customer(*command: str | Path) -> Customer:
    async def run(*, seconds: float = 30, **wish: Any) -> Heard:
        process = await asyncio.create_subprocess_exec(
            *command,
            json.dumps({"seconds": seconds, **wish}),
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode in (0, 3, 4), errors.decode()
        return Heard(process.returncode, [json.loads(line) for line in output.splitlines()])

    return run


@pytest.fixture(scope="session")
def nostr_tools(node: Path, node_modules: Path) -> Customer:
    """Run the nostr-tools customer: `heard = await nostr_tools(relay=…, kind=5001, input=…, to=…, cashu=…)`."""
    return _customer(node, HERE / "customer_nostr_tools.mjs")


@pytest.fixture(scope="session")
def ndk(node: Path, node_modules: Path) -> Customer:
    """Run the NDK customer, which always encrypts: `heard = await ndk(relay=…, kind=5001, input=…, to=…)`."""
    return _customer(node, HERE / "customer_ndk.mjs")


@pytest.fixture(scope="session")
def cashu_customer(node: Path, node_modules: Path) -> Customer:
    """Run the customer with a cashu-ts wallet: `await cashu_customer(relay=…, mint=…, kind=…, input=…, to=…, settle=…)`."""
    return _customer(node, HERE / "customer_cashu_ts.mjs")


@pytest.fixture(scope="session")
def pynostr() -> Customer:
    """Run the pynostr customer; used like `nostr_tools`."""
    return _customer(sys.executable, HERE / "customer_pynostr.py")


@pytest.fixture(scope="session")
def sdk() -> Customer:
    """Run the nostr-sdk customer; used like `nostr_tools`, with `encrypt="nip44"` or `"nip04"` for a private job."""
    return _customer(sys.executable, HERE / "customer_nostr_sdk.py")


@pytest.fixture(params=["nostr_tools", "pynostr", "sdk"])
def customer(request: pytest.FixtureRequest) -> Customer:
    """Each of the customers in turn."""
    chosen: Customer = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(params=["nostr_tools", "sdk"])
def private_customer(request: pytest.FixtureRequest) -> Customer:
    """Each that can choose how it encrypts."""
    chosen: Customer = request.getfixturevalue(request.param)
    return chosen
