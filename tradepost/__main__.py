"""`python -m tradepost`: the same as the `tradepost` command."""

from tradepost.cli import main

main()
