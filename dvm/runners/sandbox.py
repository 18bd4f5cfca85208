"""The sandbox in which commands run: bubblewrap's namespaces, the kernel's limits, and a watch over all of it together.

A program in it sees the system's programs and the files it was given, read-only, and three things of its own: /task,
/tmp (both in memory, of limited size) and /proc with none but its own processes. No network, unless a proxy to listed
hosts; no other files, no keys, no environment but what it was given. It has no privileges and can get none.

Everything dies with it: killing bubblewrap, or our own death, kills the first process of its PID namespace, and the
kernel then all others. It never runs without any of this: what is missing raises `RunnerUnusable`.
"""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from dvm.errors import JobFailed, JobTimeout, RunnerUnusable
from dvm.runners.proxy import HELPER, PORT, Hosts, serve
from dvm.runners.seccomp import system_call_filter
from dvm.runners.usage import usage_of

MB: Final = 1024 * 1024
WATCH_SECONDS: Final = 0.05
OPEN_FILES_MAX: Final = 256
LINE_CHARACTERS_MAX: Final = 300
SAID_BYTES_MAX: Final = MB  # on stdout and stderr together
_CHECK_SECONDS_MAX: Final = 20
# The range in which systemd makes up users too: they own nothing.
_UIDS: Final = range(61184, 65520)
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
# Of /etc only what programs cannot do without; the rest tells of this machine and its people.
_ETC: Final = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/fonts", "/etc/mime.types",
)  # fmt: skip
# What the program says goes to its owner's log; only the result leaves by the pipe that is read as such.
_SCRIPT: Final = """\
exec 3>&1 1>&2
"$@" 3>&- || exit
[ -f /task/output.json ] || { echo 'it wrote no /task/output.json'; exit 65; }
exec head -c "$0" /task/output.json >&3
"""


@dataclass(frozen=True)
class SandboxLimits:
    """What one run may use. Memory and CPU time are those of all its processes together; `disk_mb` is memory too."""

    seconds: int = 60
    cpu_seconds: int = 60
    memory_mb: int = 512
    processes: int = 32
    disk_mb: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise RunnerUnusable(f"{name} must be at least 1")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code, /task/output.json (cut at one byte more than was allowed), its last words."""

    code: int
    output: bytes = field(repr=False)
    last_line: str = field(repr=False)


@dataclass(frozen=True)
class Sandbox:
    """Runs `argv` in /task, where `input.json` is; `binds` are more files it can read: outer path by inner path."""

    argv: Sequence[str]
    limits: SandboxLimits = SandboxLimits()
    binds: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: Hosts = frozenset()
    output_bytes_max: int = MB

    async def run(self, given: bytes) -> Outcome:
        """Run it on `given`, as /task/input.json.

        Raises `JobFailed` (`JobTimeout`) if it had to be stopped, with a message for the customer. However it ends, a
        cancellation included, no process of it is left.
        """
        control, inner = socket.socketpair()
        with control:
            with inner:
                process = await self._start(given, inner)
            try:
                async with asyncio.timeout(self.limits.seconds), asyncio.TaskGroup() as group:
                    output = group.create_task(_read(process.stdout, self.output_bytes_max + 1))
                    said = group.create_task(_read(process.stderr, SAID_BYTES_MAX))
                    proxy = group.create_task(serve(control, self.network))
                    await self._watch(process)
                    proxy.cancel()
            except TimeoutError:
                raise JobTimeout(
                    f"the work took longer than {self.limits.seconds} s and was stopped"
                ) from None
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                await _end(process)
        lines = said.result().decode(errors="replace").strip().splitlines()
        return Outcome(
            process.returncode or 0, output.result(), lines[-1][:LINE_CHARACTERS_MAX] if lines else ""
        )

    async def _start(self, given: bytes, control: socket.socket) -> asyncio.subprocess.Process:
        with _file(given) as task, _file(system_call_filter()) as calls:
            starting = asyncio.create_task(
                asyncio.create_subprocess_exec(
                    *self._command(task.fileno(), calls.fileno(), control.fileno()),
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                    pass_fds=(task.fileno(), calls.fileno(), control.fileno()), env=self._environment(),
                    start_new_session=True,
                )
            )  # fmt: skip
            try:
                return await asyncio.shield(starting)
            except asyncio.CancelledError:  # asyncio itself would kill bubblewrap alone
                await _end(await starting)
                raise

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Return when it has ended; raise `JobFailed` when its processes together use more than they may."""
        limits = self.limits
        while process.returncode is None:
            used = usage_of(process.pid)
            if used.memory > limits.memory_mb * MB:
                raise JobFailed(f"the work needed more memory than {limits.memory_mb} MB and was stopped")
            if used.cpu_seconds > limits.cpu_seconds:
                raise JobFailed(
                    f"the work needed more computing time than {limits.cpu_seconds} s and was stopped"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), WATCH_SECONDS)

    def _command(self, task: int, calls: int, control: int) -> list[str]:
        """bubblewrap, the limits, then the program. All three are open files: the input, the filter, the proxy's."""
        limits = self.limits
        system = [part for name in _SYSTEM for part in _system_folder(Path(name))]
        binds = [
            part
            for inner, outer in self.binds.items()
            for part in (*_folders(inner), "--ro-bind", str(outer), inner)
        ]
        etc = [part for name in _ETC for part in (*_folders(name), "--ro-bind-try", name, name)]
        memory = ["--perms", "1777", "--size", str(limits.disk_mb * MB), "--tmpfs"]
        net = self._shared_net(control) if self.network else [_program("bwrap"), "--unshare-net"]
        return [
            *net, *_privileges(), "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
            "--die-with-parent", "--new-session", "--hostname", "sandbox",
            *system, *etc, "--proc", "/proc", "--dev", "/dev", *memory, "/tmp", *memory, "/task",  # noqa: S108 - its own
            *binds, "--perms", "0444", "--ro-bind-data", str(task), "/task/input.json",
            "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/task", "--seccomp", str(calls), "--",
            *_unprivileged(), _program("prlimit"), f"--data={limits.memory_mb * MB}", f"--cpu={limits.cpu_seconds}",
            f"--nproc={limits.processes}", f"--fsize={limits.disk_mb * MB}", f"--nofile={OPEN_FILES_MAX}",
            "--core=0", "--msgqueue=0", "--memlock=0", "--",
            "/bin/sh", "-c", _SCRIPT, str(self.output_bytes_max + 1), *self.argv,
        ]  # fmt: skip

    def _shared_net(self, control: int) -> list[str]:
        """bubblewrap within another one, whose network, as empty, has the proxy's socket."""
        as_root = ["--cap-add", "ALL"] if os.geteuid() == 0 else ["--unshare-user"]
        bwrap = _program("bwrap")
        return [
            bwrap, *as_root, "--unshare-net", "--die-with-parent", "--dev-bind", "/", "/", "--",
            sys.executable, "-I", "-S", "-c", HELPER, str(control), bwrap,
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """All the environment there is, in place of ours, which holds keys."""
        own = {"PATH": PATH, "HOME": "/task", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108 - the sandbox's
        proxy = f"http://127.0.0.1:{PORT}"
        to_proxy = {"HTTPS_PROXY": proxy, "https_proxy": proxy} if self.network else {}
        return {**own, **to_proxy, **self.environment}


@cache
def check_sandbox() -> None:
    """Run a program that does nothing in a sandbox, once per process. Raises `RunnerUnusable` if there is none."""
    sandbox = Sandbox(["cp", "input.json", "output.json"])
    with _file(b"{}") as task, _file(system_call_filter()) as calls:
        try:
            tried = subprocess.run(
                sandbox._command(task.fileno(), calls.fileno(), control=-1),
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHECK_SECONDS_MAX, check=False,
                pass_fds=(task.fileno(), calls.fileno()), env=sandbox._environment(),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunnerUnusable(f"the sandbox for commands cannot be had: {error}") from None
    if tried.stdout != b"{}":
        why = (tried.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
        raise RunnerUnusable(
            f"the sandbox for commands cannot be had, and without it none is run: {why[:LINE_CHARACTERS_MAX]}; "
            "see docs/runners.md on what it needs"
        )


def _file(data: bytes) -> BinaryIO:
    """An open file without a name, at its beginning, for a process to inherit."""
    file = os.fdopen(os.memfd_create("tradepost"), "w+b")
    file.write(data)
    file.seek(0)
    return file


def _program(name: str) -> str:
    if found := shutil.which(name):
        return found
    package = {"bwrap": "bubblewrap"}.get(name, "util-linux")
    raise RunnerUnusable(
        f"commands run only in a sandbox, and {name} is not installed; run `apt-get install {package}`"
    )


def _privileges() -> list[str]:
    """As an ordinary user: a user namespace, and none below it. As root: what it takes to become somebody else."""
    if os.geteuid() == 0:
        return ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    return ["--unshare-user", "--disable-userns"]


def _unprivileged() -> list[str]:
    """For root, whom the kernel allows any number of processes: become a user made up for this one run."""
    if os.geteuid() != 0:
        return []
    uid = secrets.choice(_UIDS)
    return [
        _program("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all",
        "--inh-caps=-all", "--",
    ]  # fmt: skip


def _folders(path: str) -> list[str]:
    """Make the folders above `path` where everybody may pass: bubblewrap's own are root's alone if root runs it."""
    above = [str(folder) for folder in reversed(Path(path).parents) if folder != Path("/")]
    return [part for folder in above for part in ("--perms", "0755", "--dir", folder)]


def _system_folder(path: Path) -> list[str]:
    """How the sandbox gets a folder of the system: as a link if it is one here (/bin to usr/bin), else as it is."""
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of it, and wait for that."""
    if process.returncode is None:
        # While bubblewrap starts, its child first is in its group, then on its own, and last dies with it.
        descendants = usage_of(process.pid).pids - {process.pid}
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for pid in descendants:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    await process.communicate()  # what is left in the pipes: asyncio waits for their ends too


async def _read(stream: asyncio.StreamReader | None, bytes_max: int) -> bytes:
    """All of it. Raises `JobFailed` where it goes on after `bytes_max`."""
    assert stream is not None
    data = bytearray()
    while piece := await stream.read(65536):
        data += piece
        if len(data) > bytes_max:
            raise JobFailed(f"the work wrote more than {bytes_max} bytes and was stopped")
    return bytes(data)
