"""Commands that are imported when they are called, so that help, completion and mistakes are quick."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand


class Later(TyperCommand):
    """Stands in the list for a command, or a group of them, of `module`, which is imported when it is called.

    The module has `register(app)`. `about` is the first sentence of the command's help, for the list.
    """

    def __init__(self, name: str, module: str, about: str) -> None:
        super().__init__(name, help=about, rich_markup_mode=None)
        self._module = module

    def load(self) -> typer.core.TyperCommand | typer.core.TyperGroup:
        """The command itself."""
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.callback()(_nothing)  # so that one command alone is still called by its name
        import_module(self._module).register(app)
        command = typer.main.get_group(app).commands[self.name or ""]
        assert isinstance(command, TyperCommand | typer.core.TyperGroup)
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """All that typer does with a command goes through its context, which names the real one."""
        return self.load().make_context(*args, **kwargs)


def _nothing() -> None:
    pass
