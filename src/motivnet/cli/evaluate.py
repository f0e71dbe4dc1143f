"""`motivnet evaluate`."""


def evaluate() -> None:
    """Score a model."""
