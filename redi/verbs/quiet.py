"""Silence of libraries that would show progress of their own beside redi's."""

from __future__ import annotations


def quiet_loading() -> None:
    """No progress bars while pipelines and networks are loaded."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
