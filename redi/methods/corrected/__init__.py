"""Retrieval-corrected sampling: few calls, truncation errors from the KB."""

from redi.methods.corrected.corrector import Correction, StepCorrection, uncorrected
from redi.methods.corrected.fit import Recipe, fit_correction
from redi.methods.corrected.plan import Plan, plan
from redi.methods.corrected.run import run_corrected

__all__ = [
    "Correction",
    "Plan",
    "Recipe",
    "StepCorrection",
    "fit_correction",
    "plan",
    "run_corrected",
    "uncorrected",
]
