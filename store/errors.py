"""Errors of the store.

StoreError
└── MigrationError      the database and this release do not fit together
"""


class StoreError(Exception):
    """Something is wrong with the database file or with how it is used."""


class MigrationError(StoreError):
    """The database cannot be brought to the schema of this release; it is left as it was."""
