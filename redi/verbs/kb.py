"""`redi kb build | info | verify | index | search`: the KB that a configuration names."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from redi.config import Config
from redi.errors import UsageError
from redi.knowledge_base import (
    KnowledgeBase,
    step_group,
)
from redi.retrieval.opening import open_search
from redi.text import say_on
from redi.verbs.assemble import check, manifest_from, model_from, sampler_from
from redi.verbs.kb_info import describe, verify_folder
from redi.verbs.named_kb import named_kb, refuse_hub


def kb_action(action: str, config: Config, console: Console, prompt: str = "") -> None:
    """Build, describe, check, index or search the KB that a configuration names."""
    root = kb_folder(config, console, build=action == "build")
    if action == "verify":
        verify_folder(root, console)
    elif action in ("build", "info"):
        describe(root, console)
    else:
        given = None if config.kb.dir is not None and action == "search" else config.kb.size
        kb = KnowledgeBase(root, given, config.kb.check_hashes)
        if action == "search":
            from redi.verbs.kb_search import search_prompt

            search_prompt(prompt, config, kb, console)
        else:
            _index(kb, config, console)


def kb_folder(config: Config, console: Console, build: bool) -> Path:
    """The KB's folder, after building what it lacks where that is asked for."""
    if build:
        refuse_hub(config.kb)
    elif (named := named_kb(config.kb)) is not None:
        return named
    from redi.verbs.build_kb import kb_root, make

    setting, sampling = check(config, queries=False), config.sampling
    model = model_from(config.model, sampling.guidance_scale, sampling.negative_prompt)
    manifest = manifest_from(config, setting, model, sampler_from(config, model))
    root = kb_root(config, manifest)
    if build:
        make(config, manifest, root, model, say_on(console))
    return root


def _index(kb: KnowledgeBase, config: Config, console: Console) -> None:
    if not kb.key_steps:
        raise UsageError(f"the KB {str(kb.root)!r} does not say its key step: build it again")
    kind = config.retrieval.index
    for step in kb.key_steps:
        open_search(kb, step_group(step), "latents", kb.partitions, kind, True, say_on(console))
