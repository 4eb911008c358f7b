"""Retrieval-corrected sampling: few calls, truncation errors from the KB."""

from redi.correction.corrector import Correction, StepCorrection, uncorrected
from redi.correction.fit import Recipe, fit_correction
from redi.correction.plan import Plan, plan
from redi.correction.run import run_corrected

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
