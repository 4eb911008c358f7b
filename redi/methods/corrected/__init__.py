"""Retrieval-corrected sampling: few calls, truncation errors from the KB."""

from redi.methods.corrected.corrector import Correction, StepCorrection
from redi.methods.corrected.fit import Recipe, fit_correction
from redi.methods.corrected.method import Adaptive, Corrected

__all__ = [
    "Adaptive",
    "Corrected",
    "Correction",
    "Recipe",
    "StepCorrection",
    "fit_correction",
]
