"""The page, the JSON and the table of an evaluation."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluation_sets import context, three_sets
from matplotlib.figure import Figure as Plot

from medsegdiff.engine.files import REPORT_FILE
from medsegdiff.evaluation.drawing import png
from medsegdiff.evaluation.report.grids import mixed_grids
from medsegdiff.evaluation.report.write import PAGE_FILE, TABLE_FILE, write_report
from medsegdiff.evaluation.section import Figure, Section, Table, Verdict
from medsegdiff.statistics.interval import Interval

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def section() -> Section:
    """One of everything, with text that HTML could take for its own."""
    plot = Plot(figsize=(2, 2))
    plot.subplots().plot([0, 1])
    return Section(
        "Speckle <b>& co</b>",
        text=["A sentence with <script>console.error('text ran')</script>."],
        tables=[Table("Figures", ["figure", "value"], [["distance", Interval(0.5, 0.4, 0.61)], ["other", None]])],
        figures=[Figure(png(plot), 'A curve of "quotes"')],
        skipped=["MS-SSIM: 3 pictures, 20 needed"],
        values={"distance": 0.5},
        per_pair={"score": [round(i / 40, 3) if i else None for i in range(40)]},
        verdict=Verdict("fail", "It is <grainy>."),
    )


def report(folder: Path) -> dict[str, object]:
    """Write a report of sampled pairs with that section."""
    reported = context(three_sets())
    counts = {name: {"benign": 20, "malignant": 20} for name in ("train", "held_out", "synthetic")}
    compared = {
        "counts": counts,
        "notes": ["A note."],
        "held_out": ["val"],
        "config": {"seed": 0},
        "real_content": "a" * 64,
        "synthetic_content": "b" * 64,
    }
    return write_report(folder, reported, {"speckle": section()}, {"compared": compared})


def test_files_hold_what_was_measured(tmp_path: Path) -> None:
    """Damage: a verdict, a value, a skipped line or a column of single pairs is lost."""
    report(tmp_path)
    reported = json.loads((tmp_path / REPORT_FILE).read_text())
    assert reported["verdicts"] == [{"metric": "speckle", "outcome": "fail", "sentence": "It is <grainy>."}]
    assert reported["metrics"]["speckle"] == {"distance": 0.5, "skipped": ["MS-SSIM: 3 pictures, 20 needed"]}
    rows = list(csv.DictReader(io.StringIO((tmp_path / TABLE_FILE).read_text())))
    assert len(rows) == 40
    assert rows[0] == {"id": "synthetic_000", "label": "benign", "score": ""}
    assert rows[4]["score"] == "0.1"


def test_the_page_says_it_in_words(tmp_path: Path) -> None:
    """Damage: text is not escaped, or an interval, an empty cell or a skipped line is left out of the page."""
    report(tmp_path)
    page = (tmp_path / PAGE_FILE).read_text()
    assert "<script>" not in page
    assert "It is &lt;grainy&gt;." in page
    assert "0.500 [0.400, 0.610]" in page
    assert "Not measured: MS-SSIM: 3 pictures, 20 needed" in page
    assert "<td>–</td>" in page  # noqa: RUF001
    assert "no embedding: not needed here" in page
    assert 'src="http' not in page
    assert page.count("data:image/png") == 2 * 2 + 1


def test_a_figure_that_is_none_is_refused(tmp_path: Path) -> None:
    """Damage: NaN can reach a file: report.json would be no JSON, and the table would lie."""
    reported = context(three_sets())
    for bad in ({"values": {"x": float("nan")}}, {"per_pair": {"x": [float("inf")] * 40}}):
        with pytest.raises(ValueError, match=r"Out of range|not finite"):
            write_report(tmp_path, reported, {"speckle": dataclasses.replace(section(), **bad)}, {})
    assert not (tmp_path / REPORT_FILE).exists()


@pytest.mark.slow
def test_the_grid_mixes_real_and_synthetic_and_hides_which() -> None:
    """Damage: the pictures come sorted, or the riddle shows the outlines of its answer."""
    grids = mixed_grids(three_sets(), seed=0)
    assert [label for label, _, _ in grids] == ["benign", "malignant"]
    for _, hidden, solved in grids:
        assert hidden.png != solved.png
        assert "Which are real?" in hidden.caption
    again = mixed_grids(three_sets(), seed=1)
    assert grids[0][1].png != again[0][1].png


@pytest.mark.slow
def test_a_page_to_hand_on_has_no_real_picture() -> None:
    """Damage: a page without real pictures shows one, or still asks which are real."""
    sets = three_sets()
    white = dataclasses.replace(sets.held_out, images=np.full_like(sets.held_out.images, 255))
    shared = mixed_grids(dataclasses.replace(sets, held_out=white), seed=0, real=False)
    assert [g[1].png for g in shared] == [g[1].png for g in mixed_grids(sets, seed=0, real=False)]
    assert [g[1].caption.split()[0] for g in shared] == ["16", "16"]  # two whole rows
    assert all("real" not in figure.caption for _, hidden, solved in shared for figure in (hidden, solved))


def test_a_page_to_hand_on_shows_nothing_where_patients_were_copied(tmp_path: Path) -> None:
    """Damage: synthetic pictures that the audit found to be copies are shown on a page without real ones."""
    reported, compared = context(three_sets(), real_pictures=False), {"counts": {}, "notes": [], "held_out": ["val"]}
    counts = {name: {"benign": 20, "malignant": 20} for name in ("train", "held_out", "synthetic")}
    more = {"config": {"seed": 0}, "real_content": "a" * 64, "synthetic_content": "b" * 64, "counts": counts}
    for name, pictures in (("speckle", 2 * 2 + 1), ("privacy", 0)):
        write_report(tmp_path, reported, {name: section()}, {"compared": compared | more})
        assert (tmp_path / PAGE_FILE).read_text().count("data:image/png") == pictures


def test_the_page_opens_in_a_browser_without_an_error(tmp_path: Path) -> None:
    """Damage: the page logs an error, asks the network for anything, or has a picture that does not load."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    report(tmp_path)
    complaints: list[str] = []
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as opened,
    ):
        page = opened.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        page.goto((tmp_path / PAGE_FILE).as_uri())
        for answer in page.query_selector_all("details"):
            answer.evaluate("e => e.open = true")
        widths = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
        title = page.title()
    assert complaints == []
    assert len(widths) == 5
    assert np.min(widths) > 50
    assert "evaluation" in title
