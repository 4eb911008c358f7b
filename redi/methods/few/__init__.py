"""Solvers on a few levels of a reference sampler: what plain and fitted ones share.

`plan.py` says which levels, `placement.py` where they lie, `bases.py` how one large step is made,
`run.py` how a run asks for its calls. What is fitted reads the KB through `teacher.py` and is kept
by `store.py`; `method.py` makes a method of it.
"""

from redi.methods.few.bases import BASES, Visit, base_step
from redi.methods.few.method import FewLevels, FittedLevels, FittedSolver
from redi.methods.few.plan import Plan
from redi.methods.few.run import look, walk
from redi.methods.few.store import Cost, Fit
from redi.methods.few.teacher import Teacher

__all__ = [
    "BASES",
    "Cost",
    "FewLevels",
    "Fit",
    "FittedLevels",
    "FittedSolver",
    "Plan",
    "Teacher",
    "Visit",
    "base_step",
    "look",
    "walk",
]
