"""What strangers wrote is shown, and is nothing but text."""

import pytest
from rich.text import Text

from tradepost.cli.output import print_pairs, quoted


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 200_000])
def test_backslashes_undo_no_markup_and_keep_nobody_busy(count: int) -> None:
    shown = Text.from_markup(f"[bold]{quoted('a' + chr(92) * count)}[/] [dim]after[/]")
    assert shown.plain.startswith("a\\")
    assert shown.plain.endswith(" after")
    assert [span.style for span in shown.spans] == ["bold", "dim"]


@pytest.mark.parametrize(
    "text", ["C:\\x", "\\\\host\\[b]", "[/]", "[bold]x[/bold]", "a[0]", "[link=file:///x]y[/link]"]
)
def test_other_texts_are_shown_as_they_are(text: str) -> None:
    assert Text.from_markup(f"[bold]{quoted(text)}[/]").plain == text


def test_lines_in_a_pipe_end_where_their_text_ends(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([("job", "1"), ("customer", "somebody")])
    assert capsys.readouterr().out == "job      1\ncustomer somebody\n"
