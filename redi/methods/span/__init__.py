"""The span solver: every scalar of a linear sampler, and its times, trained end to end."""

from redi.methods.span.method import Span

__all__ = ["Span"]
