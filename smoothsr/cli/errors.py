"""What a user got wrong, and what may go wrong with one image: one line each."""

__all__ = ["FAILURES", "UserError", "message"]

# Of one image, which do not stop the others.
FAILURES = (ValueError, OSError, ImportError, MemoryError, RuntimeError)


class UserError(ValueError):
    """One line for the user."""


def message(error: BaseException | str) -> str:
    """Say in one line what an error says; of the system's errors, what to do about them."""
    if isinstance(error, OSError) and error.filename and not error.filename2:
        name = error.filename
        if isinstance(error, FileNotFoundError):
            return f"there is no file or folder {name}"
        if isinstance(error, IsADirectoryError):
            return f"{name} is a folder: name a file"
        if isinstance(error, PermissionError):
            return f"{name} may not be read or written by you"
    return " ".join(str(error).split()) or type(error).__name__
