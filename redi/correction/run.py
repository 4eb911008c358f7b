"""A corrected run: a few evenly spread calls, each step corrected from the knowledge base."""

from __future__ import annotations

from torch import Tensor

from redi.correction.base import Visit, visit
from redi.correction.corrector import Correction
from redi.correction.predict import Predictor
from redi.inference import Outcome, Stopwatch
from redi.models.base import Conditioning, DiffusionModel
from redi.models.meter import now


def run_corrected(
    model: DiffusionModel,
    correction: Correction,
    conditioning: Conditioning,
    noise: Tensor,
    partitions: list[int],
) -> Outcome:
    """Final latents of a batch from unit noise (B, C, H, W), with `correction.plan.calls` calls.

    The state is kept in float64, the network sees it in its own precision. The correction has to
    be on the model's device.
    """
    plan, watch, retrieval = correction.plan, Stopwatch(model), 0.0
    predictor = Predictor(plan, model, conditioning)
    start = plan.sampler.initial(noise).latents
    y = start.double() / float(plan.alpha[0])
    visits: list[Visit] = []
    for level in range(plan.calls):
        latents = (y * float(plan.alpha[level])).to(start)
        prediction = predictor(level, latents)
        began = now(model.meter.device)
        visits.append(visit(float(plan.rho[level]), y, prediction))
        y = correction.step(level, visits, partitions)
        retrieval += now(model.meter.device) - began
    final = (y * float(plan.alpha[-1])).to(start)
    return Outcome(final, watch.stop(len(conditioning), retrieval))
