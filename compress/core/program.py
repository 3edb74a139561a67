"""The name by which a user called a command, for its help and usage."""

_typed: str | None = None


def called_as(name: str) -> None:
    """Say that the user typed `name`, such as `sr-compress run`."""
    global _typed
    _typed = name


def program_name(module: str) -> str:
    """What the usage line of the command in `module` begins with."""
    return _typed or f"python -m {module}"
