"""The best few-step sampler for a model, its prompts and its guidance, by left-out error."""

from redi.methods.best.method import Best

__all__ = ["Best"]
