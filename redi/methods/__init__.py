"""Methods: ways to spend network calls."""
