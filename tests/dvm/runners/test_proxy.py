"""The way out of a sandbox to listed hosts, and to no others."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dvm import Job, JobFailed
from dvm.errors import RunnerUnusable
from dvm.runners import SandboxLimits, command
from dvm.runners.proxy import read_hosts

pytestmark = pytest.mark.usefixtures("sandbox")

MakeJob = Callable[..., Job]
PYTHON = Path(sys.executable).resolve()


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that says back what it is told, in capitals."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def inside(job: Job, code: str, network: list[str], **limits: int) -> str:
    code = f"""
import os, socket
def ask(head):
    way = socket.create_connection(("127.0.0.1", int(os.environ["HTTPS_PROXY"].rpartition(":")[2])))
    way.sendall(head.encode())
    return way, way.recv(100).decode().partition("\\r")[0]
{code}"""
    work = command(
        "sh", "-c", f"cat > t.py <<'END'\n{code}\nEND\n{PYTHON} t.py > output.json",
        files=[sys.base_prefix], network=network, limits=SandboxLimits(**limits),
    )  # fmt: skip
    return await work(job)


async def test_a_listed_host_is_reached(make_job: MakeJob, echo: int) -> None:
    code = f"""
way, said = ask("CONNECT localhost:{echo} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
way.sendall(b"hello\\n")
print(said, way.recv(100))
"""
    assert await inside(make_job(), code, [f"localhost:{echo}"]) == "HTTP/1.1 200 OK b'HELLO\\n'\n"


async def test_no_other_is(make_job: MakeJob, echo: int) -> None:
    code = f"""
for head in ("CONNECT 127.0.0.1:{echo} HTTP/1.1", "CONNECT localhost:{echo + 1} HTTP/1.1",
             "CONNECT localhost:{echo}.evil:1 HTTP/1.1", "GET http://localhost:{echo}/ HTTP/1.1", "SSH-2.0"):
    print(ask(head + "\\r\\n\\r\\n")[1])
try:
    socket.create_connection(("127.0.0.1", {echo}))
    print("out")
except OSError:
    print("in")
print([name for _, name in socket.if_nameindex()], [n for n in os.listdir("/proc/self/fd") if int(n) > 3])
way = socket.create_connection(("127.0.0.1", 3128))
way.sendall(bytes(100_000))
try:
    print(way.recv(100))
except OSError:
    print(b"")
"""
    said = await inside(make_job(), code, [f"localhost:{echo}"])
    assert said == "HTTP/1.1 403 Forbidden\n" * 5 + "in\n['lo'] []\nb''\n"


async def test_nothing_more_may_be_done_with_a_network(make_job: MakeJob, tmp_path: Path) -> None:
    """The sandbox within another one is as tight as without it."""
    (tmp_path / "nsec").write_text("hunter2")
    code = f"""
import ctypes, subprocess
status = open("/proc/self/status").read()
print([line for line in status.splitlines() if line.startswith(("Cap", "NoNewPrivs")) and int(line.split()[1], 16) > 1])
for at in ("{tmp_path}/nsec", "/etc/shadow", "/proc/1/root{tmp_path}/nsec"):
    print(os.path.exists(at))
made = 0
try:
    while True:
        if os.fork() == 0:
            import time
            time.sleep(9)
            os._exit(0)
        made += 1
except OSError:
    print(0 < made < 16)
try:
    os.kill({os.getpid()}, 9)
    print("killed")
except OSError:
    print("in")
"""
    said = await inside(make_job(), code, ["a.example"], processes=16)
    assert said == "[]\nFalse\nFalse\nFalse\nTrue\nin\n"


async def test_endless_talk_ends_with_the_time(make_job: MakeJob, echo: int) -> None:
    code = f"""
way, said = ask("CONNECT localhost:{echo} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
while True:
    way.recv(100)
"""
    with pytest.raises(JobFailed, match="longer than 1 s"):
        await inside(make_job(), code, [f"localhost:{echo}"], seconds=1)


def test_the_list_is_of_hosts() -> None:
    assert read_hosts(["api.Example.com", "a.example:8443"]) == {
        ("api.example.com", 443),
        ("a.example", 8443),
    }
    for wrong in ("https://a.example", "*.example", "a.example:0", "a.example:99999", "", "a b"):
        with pytest.raises(RunnerUnusable):
            read_hosts([wrong])
