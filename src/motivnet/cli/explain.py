"""`motivnet explain`."""


def explain() -> None:
    """Show where a model looks."""
