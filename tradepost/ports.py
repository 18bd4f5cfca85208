"""Which port of 127.0.0.1 a relay or a mint of ours listens on."""

import socket
from pathlib import Path
from typing import Final

from tradepost.errors import TradepostError

_HOST: Final = "127.0.0.1"
_FILE: Final = "port"


def choose_port(wanted: int | None = None, folder: Path | None = None) -> int:
    """`wanted`, else the one that `folder` remembers, else a free one; `folder` (made if need be) remembers it then.

    The same folder means the same address, which is part of a mint's ecash. Raises `TradepostError` if the port is
    taken or not ours to take.
    """
    remembered = folder / _FILE if folder else None
    port = wanted or (_read(remembered) if remembered else None) or 0
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # an ended one's last connections do no harm
        try:
            probe.bind((_HOST, port))
            probe.listen()
        except PermissionError:
            raise TradepostError(
                f"port {port} is for the system's own services; choose one from 1024 on"
            ) from None
        except OSError:
            raise TradepostError(
                f"port {port} is taken: another program listens there. End it, or choose another with --port"
            ) from None
        port = int(probe.getsockname()[1])
    if remembered:
        remembered.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remembered.write_text(f"{port}\n")
    return port


def _read(path: Path) -> int | None:
    """A port that a folder remembers; None if it remembers none that could be one."""
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536 else None
