"""The filter of system calls as bytes; what it stops is tried in test_command.py."""

import struct

import pytest

from dvm.errors import RunnerUnusable
from dvm.runners.seccomp import system_call_filter

ENOSYS, ALLOW, KILL = 0x50000 | 38, 0x7FFF0000, 0x80000000


def judge(program: bytes, audit: int, number: int, first: int = 0) -> int:
    """Run the filter as the kernel would."""
    data = struct.pack("<IIQQ", number, audit, 0, first)
    steps = list(struct.iter_unpack("<HBBI", program))
    at, value = 0, 0
    while True:
        code, when_true, when_false, operand = steps[at]
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("<I", data, operand)
            case 0x06:
                return int(operand)
            case _:
                holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
                at += when_true if holds else when_false


@pytest.mark.parametrize(
    ("machine", "audit", "memfd_create", "write", "clone"),
    [("x86_64", 0xC000003E, 319, 1, 56), ("aarch64", 0xC00000B7, 279, 64, 220)],
)
def test_what_it_says_of_calls(machine: str, audit: int, memfd_create: int, write: int, clone: int) -> None:
    program = system_call_filter(machine)
    assert judge(program, audit, write) == ALLOW
    assert judge(program, audit, memfd_create) == ENOSYS
    assert judge(program, audit, 435) == ENOSYS  # clone3
    assert judge(program, audit, clone, first=0x11) == ALLOW
    assert judge(program, audit, clone, first=0x10000011) == ENOSYS  # CLONE_NEWUSER
    assert judge(program, audit, 0x40000000 | write) == ENOSYS  # x32
    assert judge(program, 0x40000003, write) == KILL  # i386


def test_machines_without_one_run_no_commands() -> None:
    with pytest.raises(RunnerUnusable, match="riscv64"):
        system_call_filter("riscv64")
