"""Retrieval-corrected sampling: few calls, truncation errors from the KB."""

from redi.methods.corrected.corrector import Correction, StepCorrection, uncorrected
from redi.methods.corrected.fit import Recipe, fit_correction
from redi.methods.corrected.method import Adaptive, Corrected, Placed
from redi.methods.corrected.plan import Plan, plan

__all__ = [
    "Adaptive",
    "Corrected",
    "Correction",
    "Placed",
    "Plan",
    "Recipe",
    "StepCorrection",
    "fit_correction",
    "plan",
    "uncorrected",
]
