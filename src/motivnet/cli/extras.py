"""Moved to `motivnet.errors`."""

from motivnet.errors import needs_extra as needs_extra
