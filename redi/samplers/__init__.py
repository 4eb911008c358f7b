"""Samplers: one adapter per diffusers scheduler family, with exact step indices and state."""

from redi.samplers.base import RESUME_POLICIES, Sampler
from redi.samplers.build import adapt, build_sampler, build_scheduler, check_options
from redi.samplers.calls import Answer, Ask, Calls, drive, together
from redi.samplers.catalogue import SAMPLERS, SamplerOptions
from redi.samplers.state import Levels, Predict, SamplerState, StepRecord

__all__ = [
    "RESUME_POLICIES",
    "SAMPLERS",
    "Answer",
    "Ask",
    "Calls",
    "Levels",
    "Predict",
    "Sampler",
    "SamplerOptions",
    "SamplerState",
    "StepRecord",
    "adapt",
    "build_sampler",
    "build_scheduler",
    "check_options",
    "drive",
    "together",
]
