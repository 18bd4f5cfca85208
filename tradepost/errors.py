"""Errors of the doors.

TradepostError
├── ConfigError         the configuration lacks something or contradicts itself
└── PostBusy            another process runs this post
"""


class TradepostError(Exception):
    """Something a person at the terminal has to mend; the message says how."""


class ConfigError(TradepostError):
    """The configuration lacks something or contradicts itself."""


class PostBusy(TradepostError):  # noqa: N818
    """Another process runs this post; two would move the same money."""
