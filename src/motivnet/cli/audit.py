"""`motivnet audit`."""


def audit() -> None:
    """Compare groups."""
