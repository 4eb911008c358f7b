"""The report in a real headless browser, where one is installed."""

from __future__ import annotations

import json
import re
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER, QUIET

from redi.report.html import html_report
from tests.test_html import swept

FLAGS = [
    *QUIET, "--enable-logging=stderr", "--virtual-time-budget=4000", "--window-size=1400,900",
    "--dump-dom",
]  # fmt: skip
LISTEN = """<script>
const seen = [];
addEventListener("error", (event) => seen.push(event.message));
addEventListener("securitypolicyviolation", (event) => seen.push(event.blockedURI));
</script>"""
ASK = """<script>addEventListener("load", () => {
  const where = document.querySelector(".where");
  const before = where.textContent;
  document.querySelector("[data-by='1']").click();
  const pictures = [...document.images];
  parent.document.title = JSON.stringify({
    seen, before, after: where.textContent,
    shown: [...document.querySelectorAll("figure")].filter((f) => !f.hidden).length,
    width: document.documentElement.scrollWidth,
    broken: pictures.filter((p) => !p.hidden && p.complete && !p.naturalWidth).length,
    loaded: performance.getEntriesByType("resource").map((e) => e.name)
      .filter((name) => !name.startsWith("data:")),
  });
});</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")


def opened(text: str, width: int, folder: Path) -> dict[str, Any]:
    """What the page says about itself in a frame of that width, and the console's messages."""
    assert BROWSER is not None
    page = text.replace("<head>", f"<head>{LISTEN}").replace("</body>", f"{ASK}</body>")
    frame = f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{escape(page)}">'
    (folder / "frame.html").write_text(f'<meta charset="utf-8">{frame}</iframe>', "utf-8")
    profile = f"--user-data-dir={folder / f'profile-{width}'}"
    found = subprocess.run(
        [BROWSER, *FLAGS, profile, (folder / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    title = re.search("<title>(.*?)</title>", found.stdout, re.DOTALL)
    assert title, found.stderr
    console = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(title[1])) | {"console": console}


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_quiet_fits_and_turns_its_sheets(width: int, tmp_path: Path):
    page = opened(html_report(swept(tmp_path / "sweep")).read_text("utf-8"), width, tmp_path)
    assert page["seen"] == page["console"] == page["loaded"] == []
    assert page["width"] == width and page["broken"] == 0
    assert (page["before"], page["after"], page["shown"]) == ("1 of 3", "2 of 3", 1)


def test_what_would_load_something_is_stopped_and_seen(tmp_path: Path):
    text = html_report(swept(tmp_path / "sweep")).read_text("utf-8")
    address = "http://127.0.0.1:9/picture.png"
    page = opened(text.replace("<main>", f'<main><img src="{address}">'), 1280, tmp_path)
    assert address in page["seen"] and any(address in line for line in page["console"])
