"""Errors of the doors.

TradepostError
├── BackupUnusable      a backup that does not open, or holds no post
├── ConfigError         the configuration lacks something or contradicts itself
├── GatewayRefused      what the gateway does not do for strangers
└── PostBusy            another process runs this post
"""

from store.errors import CodedError


class TradepostError(CodedError):
    """Something a person at the terminal has to mend; the message says how."""


class BackupUnusable(TradepostError):  # noqa: N818
    """A backup that does not open, or holds no post."""


class ConfigError(TradepostError):
    """The configuration lacks something or contradicts itself."""


class GatewayRefused(TradepostError):  # noqa: N818
    """What the gateway does not do for strangers; the message is for them."""


class PostBusy(TradepostError):  # noqa: N818
    """Another process runs this post; two would move the same money."""


def expected() -> tuple[type[Exception], ...]:
    """Errors that are told in a sentence. Imported only when something went wrong."""
    from dvm import DvmError
    from identity import IdentityError
    from relay_bridge import RelayBridgeError
    from store import StoreError
    from tradepost.mint_process import MintProcessError, MintVenvError
    from wallet import WalletError

    return (
        TradepostError, DvmError, WalletError, RelayBridgeError, IdentityError, StoreError, MintProcessError,
        MintVenvError,
    )  # fmt: skip
