"""Methods: ways to spend network calls, each in a file of its own.

Every module of this folder is imported here, so a method is known once its file is there.
"""

from importlib import import_module
from pkgutil import walk_packages

from redi.methods.base import (
    METHODS,
    Fitted,
    Method,
    Notes,
    Query,
    Setup,
    make_method,
    method_called,
    register,
)

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

__all__ = [
    "METHODS",
    "Fitted",
    "Method",
    "Notes",
    "Query",
    "Setup",
    "make_method",
    "method_called",
    "register",
]
