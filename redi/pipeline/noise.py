"""Which noise a sample of a pipeline call starts from: generators that a knowledge base knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from redi.data.noise import NoisePolicy
from redi.errors import UsageError
from redi.knowledge_base import KnowledgeBase
from redi.knowledge_base.hub import opened as open_kb


def generators(
    kb: str | Path | KnowledgeBase, count: int | None = None, ids: Sequence[int] | None = None
) -> list[torch.Generator]:
    """Generators of a KB's own initial noises, one per sample; give them to the pipeline.

    A trajectory helps a query that starts from the same noise.

    Args:
        count: how many samples; of a KB with a noise bank, its noises by turns. None: 1.
        ids: the noise of each sample: 0 to `noise_bank_size - 1` of a bank; of a KB with a noise
            per prompt, the number of the trajectory. None: chosen as above.

    Raises:
        UsageError: the KB has no such noise, or no noise of its own and none is chosen.
    """
    opened = open_kb(kb)
    policy, where = noise_policy(opened), f"the KB {str(opened.root)!r}"
    if ids is not None and count not in (None, len(ids)):
        raise UsageError(f"count={count} and ids={list(ids)} differ: give one of them")
    if ids is None:
        if policy.policy == "per_prompt":
            raise UsageError(
                f"{where} has a noise for each trajectory: give ids, or give the pipeline any "
                "generators"
            )
        wanted = range(1 if count is None else count)
        ids = [policy.kb_id(i) for i in wanted]
    most = {"shared": 1, "bank": policy.bank_size}.get(policy.policy, len(opened))
    if bad := [i for i in ids if not 0 <= i < most]:
        raise UsageError(f"ids has {bad[0]} and {where} has the noises 0 to {most - 1}: use these")
    return [policy.generator(i) for i in ids]


def noise_policy(kb: KnowledgeBase) -> NoisePolicy:
    """The noises that a KB's trajectories start from."""
    identity = kb.manifest.identity
    return NoisePolicy(
        identity.get("noise_policy", "shared"),
        int(identity.get("noise_bank_size", 1)),
        int(identity["noise_seed"]),
    )


def noise_of(kb: KnowledgeBase, generator: Any, samples: int) -> list[int]:
    """The noise partition of each of a call's samples, as `generators` given to the call tell it.

    A generator is known by its state, so it has to be a fresh one. A KB without a bank is one
    partition, whatever the call starts from.

    Args:
        generator: the pipeline's argument of that name.
        samples: of the call, prompts times pictures per prompt.

    Raises:
        UsageError: the KB has a noise bank and a sample's noise is not told to be one of it.
    """
    policy = noise_policy(kb)
    if policy.policy != "bank":
        return [0] * samples
    given = list(generator) if isinstance(generator, (list, tuple)) else [generator]
    fresh = [policy.generator(i) for i in range(policy.bank_size)]
    known = {g.initial_seed(): (i, g.get_state()) for i, g in enumerate(fresh)}
    found = [_id_of(g, known) for g in given if isinstance(g, torch.Generator)]
    if len(found) != samples or None in found:
        raise UsageError(
            f"the KB {str(kb.root)!r} has {policy.bank_size} noises and this call does not say "
            f"which of them its {samples} samples start from: give it "
            "generator=redi.generators(kb, ids=[...]), made anew for every call"
        )
    return [i for i in found if i is not None]


def partitions_of(kb: KnowledgeBase, noises: list[int], samples: int) -> list[int]:
    """The noise partition of each of a call's samples, from those of its generators."""
    if noise_policy(kb).policy != "bank":
        return [0] * samples
    if len(noises) != samples:
        raise UsageError(
            f"the KB {str(kb.root)!r} has a noise bank and this call has {samples} samples and "
            f"{len(noises)} generators: give one for each, generator=redi.generators(kb, ids=[...])"
        )
    return noises


def _id_of(generator: torch.Generator, known: dict[int, tuple[int, torch.Tensor]]) -> int | None:
    number, state = known.get(generator.initial_seed(), (None, None))
    own = generator.get_state()
    same = state is not None and own.shape == state.shape and bool((own == state).all())
    return number if same else None
