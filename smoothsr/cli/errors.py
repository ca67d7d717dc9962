"""What a user got wrong, and what may go wrong with one image: one line each."""

__all__ = ["FAILURES", "UserError", "message"]

# Of one image, which do not stop the others.
FAILURES = (ValueError, OSError, ImportError, MemoryError, RuntimeError)


class UserError(ValueError):
    """One line for the user."""


def message(error: BaseException | str) -> str:
    """Say in one line what an error says."""
    return " ".join(str(error).split()) or type(error).__name__
