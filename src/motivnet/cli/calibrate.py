"""`motivnet calibrate`."""


def calibrate() -> None:
    """Fit a bundle's temperature."""
