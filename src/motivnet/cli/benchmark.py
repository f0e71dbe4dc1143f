"""`motivnet benchmark`."""


def benchmark() -> None:
    """Score many models on many data sets."""
