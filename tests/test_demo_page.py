"""The page of `redi demo` in a real browser: a prompt is typed, a button pressed, it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import BROWSER, Browser
from rich.console import Console

from redi.config import Config, DemoConfig
from redi.demo.bench import open_bench
from redi.demo.page import launch, page
from redi.verbs.demo import open_kb

pytest.importorskip("gradio")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")


@pytest.fixture
def address(tiny_config: Config) -> Iterator[str]:
    """Where the page of a tiny model is served."""
    config = DemoConfig(**vars(tiny_config))
    bench = open_bench(config, open_kb(config, Console(quiet=True)), lambda line: None)
    blocks = page(bench, "a red fox")
    _, local, _ = launch(blocks, None)
    yield local
    blocks.close()


def test_a_prompt_is_compared_in_the_browser(address: str, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open(address)
        browser.wait("document.querySelector('#prompt textarea')?.value === 'a red fox'")
        browser.value(
            "document.querySelector('#prompt textarea').focus();"
            "document.querySelector('#prompt textarea').select()"
        )
        browser.type("a blue car")
        browser.value("document.querySelector('#compare').click()")
        browser.wait("document.querySelector('#status').innerText.includes('Done.')")
        browser.wait("document.querySelectorAll('#pictures img').length >= 3")
        said = browser.value("document.body.innerText")
        assert "same sampler, same calls: 10 calls, error 0" in said
        assert "ReDi: 9 calls" in said and "near full sampling: no. " in said
        assert "has not been fitted" not in said
        loaded = browser.value(
            "performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)"
        )
        assert set(loaded) == {address.rstrip("/")}
        broken = "[...document.images].filter((p) => p.complete && !p.naturalWidth).length"
        assert browser.value(broken) == 0
