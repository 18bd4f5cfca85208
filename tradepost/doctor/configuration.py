"""Checks of what a person wrote: the configuration, the environment, addresses in them."""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tradepost.doctor.finding import Finding, fail, ok, warn
from tradepost.doctor.setup import Setup
from tradepost.errors import ConfigError
from tradepost.settings import FILE, Settings

#: Variables TRADEPOST_… that are no settings.
OTHER_VARIABLES: Final = (
    "HOME", "LOG", "LOG_FORMAT", "MINT_PYTHON", "MINT_VENV", "PASSWORD", "PASSWORD_FILE", "NEW_PASSWORD",
    "NEW_PASSWORD_FILE", "BACKUP_PASSWORD", "BACKUP_PASSWORD_FILE",
)  # fmt: skip


def load_settings(folder: Path) -> tuple[Settings | None, list[Finding]]:
    """The settings of a folder, None if they cannot be read, and what is to be said of them."""
    variables = [name for name in os.environ if name.startswith("TRADEPOST_")]
    findings = judge_variables(variables)
    try:
        settings = Settings.load(folder)
    except ConfigError as error:
        return None, [fail("settings", str(error), _suggestion(str(error))), *findings]
    path = folder / FILE
    where = (
        str(path)
        if path.exists()
        else f"there is no {FILE} here: the post is your own one, in {settings.data}"
    )
    return settings, [ok("settings", where), *findings]


def judge_variables(names: Iterable[str]) -> list[Finding]:
    """Variables that look like ours and mean nothing: nobody would tell otherwise that they are mistyped."""
    known = [*(field.upper() for field in Settings.model_fields), *OTHER_VARIABLES]
    findings = []
    for name in sorted({name.removeprefix("TRADEPOST_") for name in names} - set(known)):
        near = get_close_matches(name, known, 1)
        meant = f"; did you mean TRADEPOST_{near[0]}?" if near else ""
        told = f"TRADEPOST_{name} is set, and there is no such setting{meant}"
        findings.append(warn("settings", told, f"unset TRADEPOST_{name}"))
    return findings


def _suggestion(complaint: str) -> str:
    """The setting that an unknown one is most like."""
    unknown = complaint.partition(": there is no such setting")[0].rpartition(": ")[2]
    near = get_close_matches(unknown, Settings.model_fields, 1)
    return f"did you mean `{near[0]}`?" if near and "no such setting" in complaint else ""


async def check_addresses(setup: Setup) -> list[Finding]:
    """Whether there are relays and mints, and whether what goes to them can be read on the way."""
    settings = setup.settings
    return judge_addresses({"relays": settings.relays, "mints": settings.mints})


def judge_addresses(urls: Mapping[str, Iterable[str]]) -> list[Finding]:
    """`urls` are those of `relays` and `mints`, normalised."""
    findings = []
    if not urls["relays"]:
        findings.append(
            fail("relays", "none are named: nobody finds this post", "export TRADEPOST_RELAYS=wss://…")
        )
    if not urls["mints"]:
        findings.append(
            warn(
                "mints",
                "none are named: only free work can be sold or bought",
                "export TRADEPOST_MINTS=https://…",
            )
        )
    for name, listed in urls.items():
        for url in listed:
            parts = urlsplit(url)
            if parts.scheme in ("ws", "http") and not _is_here(parts.hostname or ""):
                secure = "wss" if name == "relays" else "https"
                findings.append(
                    warn(name, f"{url} is not encrypted: others on the way can read it", f"use {secure}://")
                )
    return findings


def _is_here(host: str) -> bool:
    """Whether it is this machine, or hidden by Tor, which encrypts."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".onion")
