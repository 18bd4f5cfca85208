"""Commands as work: what they are given, what they may answer, and the ways out of the sandbox that they try."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from dvm import Job, JobFailed, JobTimeout
from dvm.errors import RunnerUnusable
from dvm.runners import command
from dvm.runners.sandbox import SandboxLimits

pytestmark = pytest.mark.usefixtures("sandbox")

PYTHON = Path(sys.executable).resolve()
MakeJob = Callable[..., Job]


MARK = "TRADEPOST_TEST_MARK"


def left() -> list[str]:
    """The processes of our sandboxes that there are, wherever they went."""
    mark, found = f"{MARK}={os.environ[MARK]}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.name != str(os.getpid()) and mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, os.urandom(8).hex())


async def sh(job: Job, script: str, *, files: Sequence[str] = (), **limits: int) -> str:
    """Run the script; its answer is what it wrote. Whatever happens, nothing of it may be left."""
    work = command("sh", "-c", script, files=files, environment=[MARK], limits=SandboxLimits(**limits))
    try:
        return await work(job)
    finally:
        async with asyncio.timeout(5):
            while left():
                await asyncio.sleep(0.01)


async def python(job: Job, code: str, **limits: int) -> str:
    return await sh(
        job, f"cat > t.py <<'END'\n{code}\nEND\n/usr/bin/env python3 t.py > output.json", **limits
    )


async def test_a_command_reads_the_job_and_writes_the_answer(make_job: MakeJob, tmp_path: Path) -> None:
    script = tmp_path / "upper.sh"
    script.write_text("#!/bin/sh\ntr a-z A-Z < /task/input.json > /task/output.json\n")
    script.chmod(0o755)
    answer = await command("./upper.sh", folder=tmp_path)(make_job("ä word", ("param", "model", "x")))
    assert '"KIND":5050' in answer
    assert '"INPUTS":[{"TYPE":"TEXT","TEXT":"ä WORD","MEDIA_TYPE":"TEXT/PLAIN"}]' in answer
    assert '"PARAMS":{"MODEL":["X"]}' in answer


async def test_an_answer_may_be_json(make_job: MakeJob) -> None:
    assert await sh(make_job(), """echo '{"content": "a text"}' > output.json""") == "a text"
    assert await sh(make_job(), """echo '{"content": [1, 2]}' > output.json""") == "[1,2]"
    assert await sh(make_job(), """echo '{"other": 1}' > output.json""") == '{"other": 1}\n'
    with pytest.raises(JobFailed, match="too short"):
        await sh(make_job(), """echo '{"error": "too short"}' > output.json""")


@pytest.mark.parametrize(
    "script",
    ["echo hunter2 >&2; exit 3", "true", "ln -s /nowhere output.json", "mkfifo output.json", "kill -9 $$"],
)
async def test_a_failure_is_a_short_sentence(make_job: MakeJob, script: str) -> None:
    with pytest.raises(JobFailed, match=r"^the agent failed on this job$"):
        await sh(make_job(), script)


async def test_files_of_the_project_are_seen_if_named(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("a word")
    (tmp_path / "secret.txt").write_text("hunter2")
    script = "cat /app/words/a.txt > output.json; cat /app/secret.txt; echo x > /app/words/a.txt; ls /app >> output.json"
    work = command("sh", "-c", script, folder=tmp_path, files=["words"])
    assert await work(make_job()) == "a wordwords\n"


def test_keys_are_never_among_the_files(tmp_path: Path) -> None:
    (tmp_path / "shop" / ".tradepost").mkdir(parents=True)
    for folder, name in ((tmp_path, "shop"), (tmp_path / "shop", ".tradepost"), (tmp_path / "shop", "..")):
        with pytest.raises(RunnerUnusable):
            command("sh", folder=folder, files=[name])
    (tmp_path / "shop" / "data").mkdir()
    (tmp_path / "shop" / "data" / "post.sqlite").touch()
    with pytest.raises(RunnerUnusable, match="keys and coins"):
        command("sh", folder=tmp_path / "shop", files=["data"])
    (tmp_path / "shop" / "link").symlink_to(".tradepost")
    with pytest.raises(RunnerUnusable, match="keys and coins"):
        command("sh", folder=tmp_path / "shop", files=["link"])


async def test_the_environment_is_what_was_named(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_KEY", "hunter2")
    monkeypatch.setenv("MY_KEY", "for it")
    work = command("sh", "-c", "env > output.json", environment=["MY_KEY"])
    answer = await work(make_job())
    assert "MY_KEY=for it" in answer
    assert "hunter2" not in answer
    with pytest.raises(RunnerUnusable, match="NO_SUCH"):
        command("sh", environment=["NO_SUCH"])


# --- Ways out -------------------------------------------------------------------------------------------------------


async def test_there_is_no_network(make_job: MakeJob) -> None:
    accepted = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    abstract = await asyncio.start_unix_server(accept, "\0tradepost-test")
    code = f"""
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_INET, ("1.1.1.1", 53)),
                        (socket.AF_UNIX, "\\0tradepost-test")):
    try:
        socket.socket(family).connect(address)
        print("out")
    except OSError as error:
        print("in")
print([name for _, name in socket.if_nameindex()])
"""
    assert await python(make_job(), code) == "in\nin\nin\n['lo']\n"
    assert not accepted.is_set()
    server.close()
    abstract.close()


async def test_there_are_no_files_outside(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "nsec").write_text("hunter2")
    script = f"""
for at in {tmp_path}/nsec /proc/1/root{tmp_path}/nsec /etc/passwd /etc/shadow /root /home /run /sys /proc/kcore /dev/mem; do
    cat $at && echo read $at >> output.json; ls $at/ && echo listed $at >> output.json
done
for at in /usr/x /x /bin/x /dev/x /dev/shm/x /etc/x /task/input.json /proc/sys/kernel/hostname; do
    (echo x > $at) && echo wrote $at >> output.json
done
mount -t tmpfs none /mnt; mount -o remount,rw /usr; mknod /tmp/sda b 8 0; chroot /tmp; unshare -Ur true && echo ns >> output.json
echo end >> output.json
"""
    assert await sh(make_job(), script) == "end\n"
    assert not Path("/usr/x").exists()


async def test_it_has_no_privileges_and_gets_none(make_job: MakeJob) -> None:
    answer = await sh(make_job(), "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status > output.json")
    values = dict(line.split(":\t") for line in answer.splitlines())
    assert values.pop("NoNewPrivs") == "1"
    assert values.pop("Seccomp") == "2"
    assert {int(value, 16) for value in values.values()} == {0}


async def test_a_fork_bomb_ends(make_job: MakeJob) -> None:
    with pytest.raises(JobFailed):
        await sh(make_job(), "b() { b | b & }; b; wait; sleep 60", seconds=1)
    count = "for i in $(seq 200); do sleep 9 & done 2>/dev/null; echo x > output.json; wait"
    with pytest.raises(JobFailed):
        await sh(make_job(), count, seconds=1)
    code = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(9)
            os._exit(0)
        made += 1
except OSError:
    print(made)
"""
    assert 0 < int(await python(make_job(), code, processes=16)) < 16


async def test_programs_run_in_it(make_job: MakeJob) -> None:
    """So that those below fail for what they try, and not for want of Python."""
    assert await python(make_job(), "import mmap, ctypes; x = bytearray(10**7); print('ran')") == "ran\n"


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(10**9)",  # of one process
        "import os\nfor _ in range(9): os.fork()\nx = bytearray(40 * 2**20)\nwhile True: pass",  # of many
        "import mmap\nx = mmap.mmap(-1, 10**9)\nfor at in range(0, 10**9, 4096): x[at] = 1",  # shared
        "import os\nos.memfd_create('x')",  # in files without a name
        "import ctypes, sys\nsys.exit(ctypes.CDLL(None).shmget(0, 10**9, 0o1600) < 0)",  # of System V
        "import os\nwhile True: os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)\n",
        "f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(2**20)), f.flush()",
        "for n in range(99):\n f = open(f'/tmp/{n}', 'wb')\n for _ in range(9): f.write(bytes(2**20)), f.flush()",
    ],
)
async def test_memory_ends(make_job: MakeJob, code: str) -> None:
    with pytest.raises(
        JobFailed, match=r"failed on this job|more memory than 128 MB|computing time|took longer"
    ):
        await python(make_job(), code, memory_mb=128, disk_mb=10, seconds=30)


async def test_endless_output_ends(make_job: MakeJob) -> None:
    for script in ("yes", "yes >&2", "yes > /proc/1/fd/1; yes > /proc/self/fd/3; cat /dev/zero"):
        with pytest.raises(JobFailed, match="wrote more"):
            await sh(make_job(), script)
    with pytest.raises(JobFailed, match="longer than 1048576 bytes"):
        await sh(make_job(), "head -c 5000000 /dev/zero > output.json")
    with pytest.raises(JobFailed):
        await sh(make_job(), "yes > output.json", disk_mb=5)
    with pytest.raises(JobFailed):
        await sh(make_job(), "ln -s /dev/zero output.json")


async def test_time_ends(make_job: MakeJob) -> None:
    with pytest.raises(JobTimeout, match="longer than 1 s"):
        await sh(make_job(), "trap '' TERM INT HUP; setsid sleep 60 & sleep 60", seconds=1)
    with pytest.raises(JobFailed, match=r"computing time|failed"):
        await sh(make_job(), "while true; do true; done & while true; do true; done", cpu_seconds=1)


async def test_signals_reach_nobody_outside(make_job: MakeJob) -> None:
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        asyncio.get_running_loop().add_signal_handler(number, told.append, number)
    script = f"""
for n in TERM INT USR1; do kill -$n {os.getpid()} && echo sent >> output.json; kill -$n -- -{os.getpgrp()}; done
kill -9 1; kill -STOP 1; echo alive >> output.json
"""
    assert await sh(make_job(), script) == "alive\n"
    with pytest.raises(JobFailed):
        await sh(make_job(), "kill -9 -1; kill -STOP $$", seconds=1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        asyncio.get_running_loop().remove_signal_handler(number)
    assert told == []


async def test_what_it_leaves_behind_dies_with_it(make_job: MakeJob) -> None:
    script = "setsid sh -c 'sleep 60; echo late' & echo done > output.json"
    async with asyncio.timeout(10):
        assert await sh(make_job(), script) == "done\n"


async def test_a_cancelled_job_leaves_nothing(make_job: MakeJob) -> None:
    """At whatever moment: while bubblewrap starts, too."""
    for turns in (1, 3, 10, 30, 100, 200, 300, 400, 500, 600, 700, 800):
        running = asyncio.create_task(sh(make_job(), "sleep 60"))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([running])
        assert running.cancelled()
    running = asyncio.create_task(sh(make_job(), "sleep 60"))
    async with asyncio.timeout(10):
        while not any(line.startswith("sleep") for line in left()):
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_killed_post_leaves_nothing(tmp_path: Path) -> None:
    code = """
import asyncio, os
from dvm.runners.sandbox import Sandbox
mark = "TRADEPOST_TEST_MARK"
asyncio.run(Sandbox(["sh", "-c", "sleep 60"], environment={mark: os.environ[mark]}).run(b"{}"))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    async with asyncio.timeout(20):
        while not any(line.startswith("sleep") for line in left()):
            await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
        while left():
            await asyncio.sleep(0.01)
