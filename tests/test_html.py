"""The HTML report: self-contained, and its numbers are those of the results."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from PIL import Image

from redi.errors import UsageError
from redi.report.blocks import Plot
from redi.report.claim import claims, claims_grid, sentences
from redi.report.curves import curves_figure, variation
from redi.report.curves import measured as measured_metrics
from redi.report.html import html_report
from redi.report.runs import Run, find_runs, load_run, load_runs
from redi.report.sections import report_sections
from redi.report.styles import has_styles
from redi.report.summary import summarise
from tests.test_report import a_point, a_run, measured, with_pictures


class Page(HTMLParser):
    """Cells of each table row, and every attribute that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loaded: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def swept(root: Path, loss: float = 0.0) -> Path:
    """Three value steps of one sampler; ReDi loses `loss` of CLIP score on every prompt."""
    rng = np.random.default_rng(0)
    full = rng.normal(40, 5, 24)
    for calls, step in ((28, 20), (20, 28), (12, 36)):
        points = [
            a_point("full", 40, **measured("clip_score", 40, 1)),
            a_point("plain", calls, 41.5, **measured("clip_score", 40, 1)),
            a_point("redi", calls, 20 + step / 10, **measured("clip_score", 40 - loss, 1)),
        ]
        points[2]["value_step"] = step
        folder = a_run(root / f"v{step}", points)
        noisy = {m: full + rng.normal(0, 0.3, 24) - (m == "redi") * loss for m in ("redi", "plain")}
        scores = {"full": full, **noisy}
        with_pictures(folder, {entry: {"clip_score": v} for entry, v in scores.items()})
        Image.new("RGB", (30, 20), (step, 0, 0)).save(folder / "sheet.png")
    return root


def test_the_page_loads_nothing_and_repeats_the_results(tmp_path: Path):
    root = swept(tmp_path / "<sweep> & co")
    text = html_report(root).read_text()
    page = Page(text)
    assert page.loaded and all(source.startswith("data:") for source in page.loaded)
    assert not re.search(r"https?://|@import|url\(", text) and "default-src 'none'" in text
    assert "3 finished runs, 64 pictures per method, finished 2026-01-01." in text
    assert ["v28", "2026-01-01T00:00:00Z", "v28"] in page.rows  # run, finished, configuration
    assert "<sweep>" not in text and "&lt;sweep&gt; &amp; co" in text
    pictures = [s for s in page.loaded if s.startswith("data:image/png;base64,")]
    sheets = {(root / f"v{v}" / "sheet.png").read_bytes() for v in (20, 28, 36)}
    assert sheets <= {base64.b64decode(source.partition(",")[2]) for source in pictures}
    for run in find_runs(root):
        for point in json.loads((run / "results.json").read_text())["points"]:
            psnr = point.get("psnr")
            shown = "–" if psnr is None else f"{psnr:.1f} ± 0.3"
            assert any(f"{point['calls']:g}" in row and shown in row for row in page.rows), point


def test_a_single_run_is_a_page_too_and_no_run_is_refused(tmp_path: Path):
    run = a_run(tmp_path / "one", [a_point("plain", 20, 30.0)])
    assert "one" in html_report(run).read_text()
    with pytest.raises(UsageError, match="holds no results.json"):
        (tmp_path / "none").mkdir()
        html_report(tmp_path / "none")


@pytest.mark.parametrize(("loss", "share"), [(0.0, 12 / 40), (5.0, 1.0)])
def test_the_share_of_the_calls_follows_the_loss(tmp_path: Path, loss: float, share: float):
    root = swept(tmp_path / "sweep", loss)
    found = claims(load_runs(root))
    ours = {claim.method: claim for claim in found}
    assert {claim.quality.name for claim in found} == {"clip_score"}
    assert ours["redi"].share == pytest.approx(share)
    assert ours["redi"].low <= ours["redi"].share <= ours["redi"].high
    assert ours["plain"].share == pytest.approx(12 / 40)  # loses 0.1 at most, 0.5 is allowed
    (sentence,) = sentences(found)
    assert ("2x holds" in sentence) == (loss == 0), sentence
    rows = {row[2][0][0]: row[-1] for row in claims_grid(found).rows}
    assert rows["ReDi"] == [("holds" if loss == 0 else "is not shown", loss == 0)]


def test_no_shown_difference_is_not_equal_quality(tmp_path: Path):
    """A loss within a wide interval is no proof of equality: few prompts must not help a claim."""
    root = tmp_path / "sweep"
    rng = np.random.default_rng(0)
    full = rng.normal(40, 5, 12)
    for calls in (12, 20):
        points = [a_point(m, n, clip_score=40.0) for m, n in (("full", 40), ("redi", calls))]
        folder = a_run(root / f"v{calls}", points)
        scores = {"full": full, "redi": full + rng.normal(0, 3, 12)}
        with_pictures(folder, {entry: {"clip_score": v} for entry, v in scores.items()})
    (claim,) = claims(load_runs(root))
    assert claim.share == 1.0 and not claim.holds


def plots(runs: list[Run]) -> dict[str, Plot]:
    blocks = [block for section in report_sections(runs) for block in section.blocks]
    return {block.name: block for block in blocks if isinstance(block, Plot)}


def test_what_follows_from_the_place_makes_no_line_of_its_own(tmp_path: Path):
    """Key steps with a share of the run skipped, by two forms of ReDi: two lines and no more."""
    for step in (2, 5, 10):
        for estimator, count in (("paper", 1), ("transport", 256)):
            point = a_point("redi", 20, 20.0 + step + count, key_step=step, value_step=step + 20)
            point |= {"estimator": estimator, "neighbours": count}
            a_run(tmp_path / f"{step}-{estimator}", [point])
    runs = load_runs(tmp_path)
    varied = variation(runs)
    assert varied is not None and varied.name == "key_step"
    figure = curves_figure(runs, varied, measured_metrics(runs))
    lines = [
        bar.lines[0] for bar in figure.axes[0].containers if isinstance(bar, ErrorbarContainer)
    ]
    assert [list(line.get_xdata()) for line in lines] == [[2, 5, 10]] * 2
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["ReDi", "estimator paper", "estimator transport"]
    assert [key.get_label() for key in plots(runs)["curves"].key] == told  # the page's own legend


def test_curves_need_a_setting_with_three_values(tmp_path: Path):
    root = swept(tmp_path / "sweep")
    runs = load_runs(root)
    varied = variation(runs)
    assert varied and (varied.name, varied.ticks) == ("value_step", ())
    assert "curves" in plots(runs) and "curves" not in plots(runs[:2])
    summarise(root)
    assert Image.open(root / "curves.png").size[0] > 300


def test_a_curve_joins_points_of_one_kind_alone(tmp_path: Path):
    runs = []
    for e in ("paper", "transport"):
        for size in (256, 64, 1024):
            redi = a_point("redi", 10, 20.0 + len(e), estimator=e, kb_size=size)
            points = [redi, a_point("plain", 10, 30.0)]
            runs.append(load_run(a_run(tmp_path / f"{e}{size}", points)))
    varied = variation(runs)
    assert varied and varied.name == "kb_size"
    figure = curves_figure(runs, varied, measured_metrics(runs))
    drawn = [c.lines[0] for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]
    found = [(line.get_linestyle(), [*line.get_xdata()]) for line in drawn]
    twice = [64, 64, 256, 256, 1024, 1024]  # the same sampler, measured beside both
    assert found == [("-", twice), ("-", [64, 256, 1024]), ("--", [64, 256, 1024])]
    (legend,) = figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told[-2:] == ["estimator paper", "estimator transport"]


def test_settings_that_are_names_stand_side_by_side(tmp_path: Path):
    def runs(*settings: tuple[str, int]) -> list[Run]:
        folders = [
            a_run(tmp_path / f"{e}{h}", [a_point("redi", 20, 30.0, estimator=e, neighbours=h)])
            for e, h in settings
        ]
        return [load_run(folder) for folder in folders]

    found = runs(("paper", 8), ("paper", 1), ("delta", 1))
    varied = variation(found)
    assert varied and varied.ticks == ("delta\nH = 1", "paper\nH = 1", "paper\nH = 8")
    assert [varied.place(run.points[0]) for run in found] == [2, 1, 0]
    alone = variation(runs(("paper", 1), ("delta", 1)))
    assert alone and alone.ticks == ("delta", "paper")
    assert variation(found[:1]) is None


def test_content_and_style_have_a_plot_of_their_own(tmp_path: Path):
    scores = measured("content_score", 0.8, 0.1) | measured("style_score", 0.6, 0.1)
    points = [a_point("full", 40, **scores), a_point("redi", 20, 30.0, **scores)]
    with_scores = load_run(a_run(tmp_path / "a", points))
    without = load_run(a_run(tmp_path / "b", [a_point("redi", 20, 30.0)]))
    assert has_styles([with_scores]) and "styles" in plots([with_scores])
    assert not has_styles([without]) and "styles" not in plots([without])
    summarise(tmp_path / "a")
    assert Image.open(tmp_path / "a" / "styles.png").width > 300
