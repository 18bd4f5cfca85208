"""The page and its plots."""

from pathlib import Path
from xml.etree import ElementTree

from bench.measure import Bar, Figure, Line
from bench.plot import bars, curve
from bench.report import BEGIN, END, table, write

FAST = Line("jobs per second", "/s", (300.0, 320.0, 310.0), (200.0, 200.0, 155.0), Bar(1.5, at_least=True))
SLOW = Line("latency", "ms", (2.0,), (1.0,), Bar(1.0, at_least=False))
PLOT = bars("Jobs", "jobs per second", {"200 at once": {"ours": FAST.ours, "other": FAST.other}})


def test_a_row_has_medians_spread_and_the_bar() -> None:
    *_, fast, slow = table([FAST, SLOW]).splitlines()
    assert fast == "| jobs per second | 310 /s | 200 /s | **1.60** (1.50 … 2.00) | ≥ 1.5 | yes |"
    assert slow == "| latency | 2 ms | 1 ms | **2.00** (2.00 … 2.00) | ≤ 1 | **no** |"


def test_a_bar_is_judged_as_it_is_printed() -> None:
    assert Bar(0.85, at_least=True).is_met(0.846)
    assert not Bar(0.85, at_least=True).is_met(0.844)
    assert Bar(1.05, at_least=False).is_met(1.054)


def test_writing_again_changes_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n", encoding="utf-8")
    (tmp_path / "performance").mkdir()
    (tmp_path / "performance" / "stale.svg").write_text("")
    figures = [Figure("jobs", "Free jobs", (FAST,), {"jobs.svg": PLOT}, ("a note",))]
    write("two cores", figures, page)
    once = page.read_text(encoding="utf-8")
    write("two cores", figures, page)
    assert page.read_text(encoding="utf-8") == once
    assert once.startswith("# Before\n\n")
    assert once.endswith(f"{END}\n\nAfter\n")
    assert "old" not in once
    assert "- a note\n" in once
    assert "![Free jobs](performance/jobs.svg)" in once
    assert [path.name for path in (tmp_path / "performance").iterdir()] == ["jobs.svg"]


def test_plots_are_svg_with_their_labels() -> None:
    points = {"ours & more": [(10_000.0, 0.8), (1_000_000.0, 1.3)]}
    for plot, labels in (
        (PLOT, {"Jobs", "jobs per second", "200 at once", "ours", "310"}),
        (
            curve("Cost", "finished jobs", "ms", points, log_x=True),
            {"Cost", "finished jobs", "1,000,000", "ours & more"},
        ),
        (curve("Latency", "percent", "ms", {"a": [(1.0, 2.0), (99.0, 0.004)]}), {"percent", "100", "0.5"}),
    ):
        texts = {
            element.text for element in ElementTree.fromstring(plot).iter("{http://www.w3.org/2000/svg}text")
        }
        assert labels <= texts
