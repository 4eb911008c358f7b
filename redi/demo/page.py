"""The page of `redi demo`, with Gradio: nothing is computed here, and nothing is sent elsewhere."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from redi.demo.bench import Bench
from redi.demo.compare import Tried, compare, offered, title_of
from redi.errors import UsageError
from redi.report.labels import DASH
from redi.text import html_text, markdown_cell, shown

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

HEADINGS = ("method", "calls", "ms", "error to full", "forecast", "")
FIRST = ("plain", "redi", "corrected")
#: a line, pictures as HTML, rows of the table, neighbours as HTML
Shown = tuple[str, str, list[list[str]], str]


def page(bench: Bench, prompt: str = "") -> Any:
    """The page as `gradio.Blocks`; `prompt` stands in its field at first."""
    import gradio

    sampler, kb = bench.setup.sampler, bench.kb
    most = sampler.calls(0, sampler.num_steps)
    titles = [(title_of(name), name) for name in offered()]
    with gradio.Blocks(title="redi demo", analytics_enabled=False) as blocks:
        gradio.Markdown(
            f"# redi\n{len(kb)} trajectories, {sampler.name} with {most} calls, key step "
            f"{kb.key_step}. Every method has the same prompt and noise."
        )
        with gradio.Row():
            with gradio.Column(scale=1):
                text = gradio.Textbox(prompt, label="Prompt", elem_id="prompt")
                seed = gradio.Number(0, label=_seeds(bench), precision=0, elem_id="seed")
                calls = gradio.Slider(1, most, min(10, most), step=1, label="Network calls")
                names = gradio.CheckboxGroup(titles, value=list(FIRST), label="Methods")
                button = gradio.Button("Compare", variant="primary", elem_id="compare")
            with gradio.Column(scale=3):
                status = gradio.Markdown(elem_id="status")
                pictures = gradio.HTML(elem_id="pictures")
                table = gradio.Dataframe(
                    headers=list(HEADINGS), interactive=False, wrap=True, elem_id="table"
                )
                gradio.Markdown("Trajectories that were looked up, and what they ended in")
                found = gradio.HTML(elem_id="neighbours")

        def answer(*given: Any) -> Iterator[Shown]:
            yield from answers(bench, *given)

        button.click(answer, [text, seed, names, calls], [status, pictures, table, found])
    return blocks


def answers(
    bench: Bench, prompt: str, seed: int | None, names: list[str], calls: int
) -> Iterator[Shown]:
    """What the page shows, anew after each method: a line, pictures, the table, neighbours."""
    done: list[Tried] = []
    try:
        for tried in compare(bench, prompt, int(seed or 0), names, int(calls)):
            done.append(tried)
            left = len(names) + 1 - len(done)
            told = "Done." if left == 0 else f"{left} to go: a method that is new is fitted first."
            yield told, pictures(done), table(done), neighbours(done)
    except UsageError as error:
        yield markdown_cell(error), pictures(done), table(done), neighbours(done)


def pictures(done: list[Tried]) -> str:
    """Each method's picture, with its calls and error below, as HTML."""
    found = []
    for tried in done:
        if tried.picture is not None:
            off = "" if tried.error is None else f", error {tried.error:.3g}"
            found.append(figure(tried.picture, f"{tried.title}: {tried.calls:g} calls{off}", 200))
    return _row(found)


def table(done: list[Tried]) -> list[list[str]]:
    """A row for each method, under `HEADINGS`."""
    rows = []
    for tried in done:
        numbers = [
            DASH if value is None else format(value, form)
            for value, form in (
                (tried.calls, "g"),
                (tried.milliseconds, ".0f"),
                (tried.error, ".4f"),
                (tried.forecast, ".4f"),
            )
        ]
        rows.append([tried.title, *numbers, shown(tried.refused)])
    return rows


def neighbours(done: list[Tried]) -> str:
    """Trajectories that each method looked up, nearest first; of full sampling, those near it."""
    return _row(
        figure(
            one.picture,
            f"{'near full sampling' if tried.name == 'full' else tried.title}: no. "
            f"{one.trajectory}, distance {one.distance:.3g}: {one.prompt}",
            120,
        )
        for tried in done
        for one in tried.neighbours
    )


def figure(picture: np.ndarray, caption: str, side: int) -> str:
    """A picture (H, W, 3), `side` pixels high, with any text below, as HTML that needs no file."""
    content = BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return (
        f'<figure style="margin:0;width:{side}px"><img alt="" src="{address}" '
        f'style="height:{side}px"><figcaption>{html_text(caption)}</figcaption></figure>'
    )


def _row(figures: Iterable[str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(figures)}</div>'


def serve(blocks: Any, port: int, say: Callable[[str], None]) -> None:
    """Serve the page on this machine alone until it is interrupted."""
    try:
        _, address, _ = launch(blocks, port)
    except OSError:
        raise UsageError(f"port={port} is in use or not allowed: choose another one") from None
    say(f"Open {address} in a browser; Ctrl-C ends it")
    blocks.block_thread()


def launch(blocks: Any, port: int | None) -> tuple[Any, str, str]:
    """Start serving; returns the app, its address and an empty second one."""
    import gradio

    fonts = ["system-ui", "sans-serif"]  # those of the machine: nothing is fetched
    return blocks.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=gradio.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
    )


def _seeds(bench: Bench) -> str:
    """What the field of the seed is called."""
    if bench.noise.policy == "per_prompt":
        return "Seed: every one is a noise that the KB has never seen"
    last = bench.noise.bank_size - 1
    own = "0 is the KB's noise" if last == 0 else f"0 to {last} are the KB's noises"
    return f"Seed: {own}, others are new to it"
