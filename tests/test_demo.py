"""What `redi demo` computes, without its page."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from running import run_plain

from redi.composition import compose_config
from redi.config import Config, CorrectionConfig, DemoConfig
from redi.data.pixels import to_pixels
from redi.demo.bench import Bench, open_bench
from redi.demo.compare import Tried, compare, offered
from redi.demo.page import HEADINGS, answers, figure, table
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.verbs import demo as verb
from redi.verbs.demo import open_kb

PROMPT = "a small red fox"


def silent(line: str) -> None:
    """Nobody listens."""


@pytest.fixture
def bench(tiny_config: Config) -> Bench:
    """Eight trajectories of ten steps that store all that corrections at 4 calls need."""
    given = {**vars(tiny_config), "correction": CorrectionConfig([4], against=[])}
    config = DemoConfig(**given)
    return open_bench(config, open_kb(config, Console(quiet=True)), silent)


def by_name(found: list[Tried]) -> dict[str, Tried]:
    return {tried.name: tried for tried in found}


def test_each_method_is_compared_with_the_full_run_of_the_same_noise(bench: Bench) -> None:
    found = by_name(list(compare(bench, PROMPT, 0, ["plain", "redi", "neighbour"], 6)))
    sampler, said = bench.setup.sampler, bench.model.encode([PROMPT])
    own = run_plain(bench.model, sampler, said, bench.query(PROMPT, 0).noise, (2,))
    full = found["full"]
    assert full.picture is not None and full.error is None and full.calls == 10
    assert np.array_equal(full.picture, to_pixels(bench.model.decode(own.latents))[0])
    assert found["plain"].calls == found["redi"].calls == 6 and found["neighbour"].calls == 2
    assert all(t.milliseconds is not None and t.milliseconds > 0 for t in found.values())
    (used,) = found["neighbour"].neighbours
    nearest = found["redi"].neighbours[0], full.neighbours[0]
    assert {one.trajectory for one in nearest} == {used.trajectory}
    distances = [one.distance for one in full.neighbours]
    gaps = (bench.kb.latents(2) - own.watched[2]).flatten(1).norm(dim=1).sort().values
    assert np.allclose(distances, gaps[: len(distances)], rtol=1e-5) and len(distances) == 6
    finished = bench.kb.latents(10)[used.trajectory]
    assert np.array_equal(used.picture, to_pixels(bench.model.decode(finished[None]))[0])
    expected = float((finished - own.latents[0]).norm() / own.latents[0].norm())
    assert found["neighbour"].error == pytest.approx(expected, rel=1e-5)


def test_a_trajectory_of_the_kb_is_found_again_and_all_its_calls_change_nothing(
    bench: Bench,
) -> None:
    own = bench.kb.prompts[3]
    found = by_name(list(compare(bench, own, 0, ["plain", "redi"], 10)))
    assert found["full"].neighbours[0].trajectory == 3
    assert found["full"].neighbours[0].distance == pytest.approx(0, abs=1e-4)
    assert found["plain"].error == 0.0
    assert found["redi"].calls == 9  # a jump skips a call at least
    assert found["redi"].neighbours[0].prompt == own


def test_a_fitted_method_is_fitted_once_and_foretells_its_error(bench: Bench) -> None:
    said: list[str] = []
    first = by_name(list(compare(bench, PROMPT, 0, ["corrected"], 4, said.append)))["corrected"]
    fitting = [line for line in said if "network calls" in line]
    assert len(fitting) == 1 and str(bench.kb.root) not in fitting[0]
    said.clear()
    again = by_name(list(compare(bench, PROMPT, 0, ["corrected"], 4, said.append)))["corrected"]
    assert not any("network calls" in line for line in said)
    assert first.calls == 4 and first.error == again.error
    assert first.forecast == again.forecast and first.forecast is not None
    assert first.forecast > 0 and np.array_equal(first.picture, again.picture)


def test_seeds_that_the_kb_does_not_have_are_new_noises(bench: Bench) -> None:
    assert bench.knows(0) and not bench.knows(1)
    noises = [bench.query(PROMPT, seed).noise for seed in (0, 1, 2)]
    assert not torch.equal(noises[0], noises[1]) and not torch.equal(noises[1], noises[2])
    near, far = (
        next(iter(compare(bench, PROMPT, seed, [], 6))).neighbours[0].distance for seed in (0, 1)
    )
    assert near < far


def test_what_cannot_be_compared_is_one_sentence_and_the_others_go_on(bench: Bench) -> None:
    found = by_name(list(compare(bench, PROMPT, 0, ["redi", "corected", "plain"], 1)))
    assert "calls=1 are too few for method='redi'" in found["redi"].refused
    assert found["redi"].picture is None and found["redi"].refused.endswith("use at least 2")
    assert "corrected" in found["corected"].refused
    assert found["plain"].calls == 1 and found["plain"].refused == ""
    for prompt, seed, calls, words in (
        (" ", 0, 4, "prompt='' is empty"),
        (PROMPT, -1, 4, "seed=-1 is out of range"),
        (PROMPT, 0, 11, "calls=11 is out of range: use 1 to 10"),
    ):
        with pytest.raises(UsageError, match=words):
            next(compare(bench, prompt, seed, [], calls))


def test_the_page_shows_what_was_computed(bench: Bench) -> None:
    shown = list(answers(bench, PROMPT, 0, ["plain", "redi"], 6))
    assert [told.split(" ")[0] for told, *_ in shown] == ["2", "1", "Done."]
    _, pictures, rows, neighbours = shown[-1]
    assert [row[0] for row in rows] == ["full sampling", "same sampler, same calls", "ReDi"]
    assert all(len(row) == len(HEADINGS) for row in rows) and rows[0][3] == "–"
    assert rows[1][1] == "6" and math.isfinite(float(rows[1][3]))
    captions = re.findall("<figcaption>(.*?)</figcaption>", pictures)
    assert [caption.split(":")[0] for caption in captions] == [row[0] for row in rows]
    captions = re.findall("<figcaption>(.*?)</figcaption>", neighbours)
    assert len(captions) == 6 + 1 and captions[-1].startswith("ReDi: no. ")
    told, shown_before, rows, _ = next(answers(bench, "", 0, [], 6))
    assert "is empty" in told and "<img" not in shown_before and rows == []
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    tag = figure(pixels, "<b>", 90)
    content = base64.b64decode(re.findall('base64,([^"]*)', tag)[0])
    assert np.array_equal(np.asarray(Image.open(BytesIO(content))), pixels) and "&lt;b&gt;" in tag
    refused = Tried("redi", "ReDi", refused="calls=2 are too few\nfor this")
    assert table([refused]) == [["ReDi", *"––––", "calls=2 are too few\\nfor this"]]


def test_without_gradio_one_sentence_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Config
) -> None:
    monkeypatch.setattr(verb, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs Gradio, .* pip install 'redi\[demo\]'"):
        verb.demo(DemoConfig(**vars(tiny_config)), Console(quiet=True))


def test_another_kb_is_opened_with_its_own_setting(bench: Bench, tiny_config: Config) -> None:
    root, other = bench.kb.root, DemoConfig(model=tiny_config.model)
    other.kb.dir = str(root)
    opened = open_bench(other, open_kb(other, Console(quiet=True)), silent)
    assert len(opened.kb) == 8 and opened.setup.sampler.num_steps == 10
    expected, found = (
        [asdict(t)["error"] for t in compare(b, PROMPT, 0, ["redi"], 6)] for b in (bench, opened)
    )
    assert found == expected
    other.model.path = None
    with pytest.raises(UsageError, match="was built with another model"):
        open_bench(other, KnowledgeBase(Path(root)), silent)


def test_the_default_kb_is_small_and_stores_what_its_calls_need() -> None:
    config = compose_config("demo", ["port=7861", "kb.dir=some"])
    assert isinstance(config, DemoConfig) and config.port == 7861
    assert (config.kb.size, config.kb.dir) == (32, "some")
    assert "best" in offered() and "full" not in offered()
    with pytest.raises(UsageError, match="port=0"):
        compose_config("demo", ["port=0"])
