"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The version that is installed, `source` where nothing is and it runs from a checkout."""
    try:
        return version("tradepost")
    except PackageNotFoundError:
        return "source"
