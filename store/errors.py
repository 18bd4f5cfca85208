"""Errors of the store, and what the errors of all packages have in common.

CodedError                  the root of every package's errors: `.code` names the kind of trouble for programs
StoreError
└── MigrationError      the database and this release do not fit together
"""

import re


def code_of(kind: type[Exception]) -> str:
    """The name of a kind of trouble for programs, the same in Python, on the command line, over HTTP and in 7000
    feedback: the class in snake case. So these classes are never renamed; docs/errors.md has them all.
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


class CodedError(Exception):
    """Root of every package's errors."""

    code: str

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls.code = code_of(cls)


class StoreError(CodedError):
    """Something is wrong with the database file or with how it is used."""


class MigrationError(StoreError):
    """The database cannot be brought to the schema of this release; it is left as it was."""
