"""The options of quantisation. Imports nothing heavy: `--help` reads it."""

import dataclasses

from motivnet.config import check_bounds, setting
from motivnet.errors import require
from motivnet.models.config import PRECISIONS

# And the size of a batch of them.
MIN_FACES = 32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationConfig:
    """How a bundle's ONNX file is made smaller; all but the precision is of int8.

    Args:
        precision: int8 or fp16.
        faces: Most faces of the split, drawn at random, to find ranges on, in 32s; memory grows too.
        percentile: Share of the values inside a range, in %.
        reduce_range: Weights in 7 bits: those of 8 bits overflow on CPUs with AVX2 or AVX-512 and without VNNI.
        float_convolutions: First convolutions in float32: they lose most.
        seed: Of the draw of faces.
    """

    precision: str = setting("int8", metavar="|".join(PRECISIONS[:0:-1]))
    faces: int = setting(128, min=MIN_FACES)
    percentile: float = setting(99.999, min=50, max=100)
    reduce_range: bool = setting(True)
    float_convolutions: int = setting(2, flag="float-convs", min=0)
    seed: int = setting(0, min=0)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: if a number is out of range, or the precision or the calibrator is unknown.
        """
        check_bounds(self)
        require(self.precision in PRECISIONS[1:], f"precision {self.precision!r}. Allowed: {', '.join(PRECISIONS[1:])}")
