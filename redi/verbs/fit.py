"""Fitting the methods of a run to its KB, once; fits lie beside the KB."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from redi.data.noise import NoisePolicy
from redi.methods import Fitted, Setup
from redi.methods.memo import REMEMBERED, Memo
from redi.methods.solve import solve_fit
from redi.models.text_to_image import TextToImageModel


def fit_all(
    methods: Iterable[Fitted],
    setup: Setup,
    noise: NoisePolicy,
    model: TextToImageModel,
    say: Callable[[Any], None],
) -> None:
    """Fit every method that has no fit beside the KB yet; equal calls are made once for all."""
    kb, memo = setup.needs_kb("fit"), Memo(REMEMBERED)
    for method in methods:
        if method.is_fitted(setup):
            continue
        drawn = noise.draw(kb.noise_ids.tolist(), model.latent_shape)
        start = setup.sampler.initial(drawn).latents
        made = solve_fit(method.fitting(setup, start, say), model, kb.prompts, memo)
        say(f"{method.title}: {made} network calls, kept in {method.path(setup)}")
        if (shown := method.report(setup)) is not None:
            say(shown)
