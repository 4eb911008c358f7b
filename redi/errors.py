"""The one exception for what a user can put right: a single sentence, printed without a trace."""


class UsageError(ValueError):
    """Names the field, its value and the fix."""
