"""Limits of inputs. Imports nothing heavy, because the command line reads it for `--help`."""

import dataclasses
import math

from motivnet.errors import require

# A small file can hold any number of these, and each makes the decoder go through the whole image: scans of a
# progressive JPEG (photographs have about ten), and scans times pixels.
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 2_000_000_000
# Length of the longer side in units of the shorter one.
MAX_ASPECT = 200


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """Limits beyond which an image is not decoded.

    Args:
        max_bytes: maximum size of a file, in bytes.
        max_pixels: maximum height x width, as a small file can decode to gigabytes.
    """

    max_bytes: int = 100_000_000
    max_pixels: int = 100_000_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """Limits of fetching a URL.

    Args:
        max_bytes: maximum size of a file, in bytes.
        timeout_s: maximum time in total, including redirects, in seconds.
        max_redirects: maximum number of redirects.
        public_only: whether hosts must be on the public internet, for URLs from untrusted users: private, local,
            multicast and reserved addresses are refused, however they are written or resolved.
    """

    max_bytes: int = 100_000_000
    timeout_s: float = 30.0
    max_redirects: int = 5
    public_only: bool = False

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: if a value is out of range.
        """
        require(self.max_bytes >= 1, f"max_bytes {self.max_bytes}: must be at least 1")
        require(0 < self.timeout_s < math.inf, f"timeout_s {self.timeout_s}: must be positive and finite")
        require(self.max_redirects >= 0, f"max_redirects {self.max_redirects}: must be 0 or more")
