"""`redi demo`: a page in the browser, on a KB that is given or built small first."""

from __future__ import annotations

from importlib.util import find_spec

from rich.console import Console

from redi.config import DemoConfig
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.text import say_on
from redi.verbs.assemble import prompts_from
from redi.verbs.kb import kb_folder
from redi.verbs.named_kb import named_kb


def demo(config: DemoConfig, console: Console) -> None:
    """Open the KB, or build it, and serve the page until it is interrupted.

    Raises:
        UsageError: Gradio is not installed, the port is taken, or the KB does not fit the model.
    """
    needs_gradio()
    say = say_on(console)
    bench_kb = open_kb(config, console)
    say("Loading PyTorch and the model")
    from redi.demo.bench import open_bench
    from redi.demo.page import page, serve

    bench = open_bench(config, bench_kb, say)
    prompt = prompts_from(config.data, "query", 1).texts[0] if config.data.name == "scenes" else ""
    serve(page(bench, prompt), config.port, say)


def needs_gradio() -> None:
    """Refuse in one sentence where Gradio is missing."""
    if find_spec("gradio") is None:
        raise UsageError("redi demo needs Gradio, which is not installed: pip install 'redi[demo]'")


def open_kb(config: DemoConfig, console: Console) -> KnowledgeBase:
    """All that is in the KB that is named; without one, a small KB that is built first."""
    named = named_kb(config.kb)
    if named is None:
        return KnowledgeBase(kb_folder(config, console, build=True), config.kb.size)
    return KnowledgeBase(named, hashes=config.kb.check_hashes)
