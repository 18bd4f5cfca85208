"""The system calls a sandbox does without, as a filter for bubblewrap. Pure: bytes.

Refused is what makes memory that no limit of ours counts (memory files, System V shared memory and queues), and what
has led out of sandboxes and no ordinary program needs: further namespaces, key rings, io_uring, bpf. A refused call
fails as on a kernel without it, which programs and libraries cope with.
"""

import platform
import struct
from dataclasses import dataclass
from typing import Final

from dvm.errors import RunnerUnusable


@dataclass(frozen=True)
class _Machine:
    audit: int  # AUDIT_ARCH_… of linux/audit.h
    clone: int
    refused: tuple[int, ...]


# memfd_create, memfd_secret, shmget, msgget, semget, io_uring_setup, bpf, perf_event_open, userfaultfd, add_key,
# request_key, keyctl, unshare, setns, and clone3, whose flags no filter can read (libraries then use clone).
_MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E, 56, (319, 447, 29, 68, 64, 425, 321, 298, 323, 248, 249, 250, 272, 308, 435)
    ),
    "aarch64": _Machine(
        0xC00000B7, 220, (279, 447, 194, 186, 190, 425, 280, 241, 282, 217, 218, 219, 97, 268, 435)
    ),
}
_X32: Final = 0x40000000  # the same calls of x86_64 under other numbers
_CLONE_NEWUSER: Final = 0x10000000
_ALLOW: Final = 0x7FFF0000
_ENOSYS: Final = 0x00050000 | 38
_KILL: Final = 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = (
    0,
    4,
    16,
)  # offsets in struct seccomp_data; both machines are little-endian


def system_call_filter(machine: str = "") -> bytes:
    """The filter for this (or the named) machine, as `bwrap --seccomp` reads it. Raises `RunnerUnusable`."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise RunnerUnusable(
            f"the sandbox has no system call filter for {machine}; run commands on {' or '.join(_MACHINES)}"
        )
    known = _MACHINES[machine]
    refused = [(_EQUAL, number) for number in known.refused] + [(_AT_LEAST, _X32)]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, known.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    # After these come: the three steps on clone, the permission, the refusal.
    steps += [(test, len(refused) - place + 3, 0, value) for place, (test, value) in enumerate(refused)]
    steps += [
        (_EQUAL, 0, 2, known.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_NEWUSER),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ENOSYS),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
