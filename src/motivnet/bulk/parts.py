"""The parts of a bulk run: consecutive inputs and the one Parquet file that a worker writes for them.

The file, such as `part-00042.parquet`, is there with all its rows, or not at all. As its rows depend only on the
inputs, the model and the options, it does not matter which worker writes it, or how often.

The columns are those of `motivnet.inference.rows` and `input`, the number of the input from 0. The status is that of
`ImageResult`, or `failed` for an input at which the detector or the model crashed. The counts of the part are in the
metadata of its file.
"""

import collections
import dataclasses
import io
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyarrow
from pyarrow import parquet

from motivnet.bulk.fsspec_files import OutputFolder
from motivnet.bulk.image_sources import Input, Source
from motivnet.config import to_json
from motivnet.errors import DataError, ImageError, MotivNetError
from motivnet.images import ImageLimits, NamedImage
from motivnet.inference.predictor import Detected, Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.results import ImageResult
from motivnet.inference.rows import to_rows

COUNTS_KEY = b"motivnet.counts"

# An input's result, and the status of its rows.
Outcome = tuple[ImageResult, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Consecutive inputs that become one file.

    Args:
        number: of the part, from 0.
        first: number of its first input.
        inputs: a slice of the source.
    """

    number: int
    first: int
    inputs: Source

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"part-{self.number:05d}.parquet"


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of inputs and faces, and of the inputs with each status."""

    inputs: int = 0
    faces: int = 0
    statuses: dict[str, int] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        statuses = collections.Counter(self.statuses) + collections.Counter(other.statuses)
        return Counts(self.inputs + other.inputs, self.faces + other.faces, dict(sorted(statuses.items())))


class TimedPredictor(Predictor):
    """A predictor that knows how long it has been at an image."""

    # Thread -> since when, by the monotonic clock, it decodes an image and looks for faces.
    began_s: ClassVar[dict[int, float]] = {}

    def _detect(self, *args: Any) -> Detected:
        self.began_s[threading.get_ident()] = time.monotonic()
        try:
            return super()._detect(*args)
        finally:
            del self.began_s[threading.get_ident()]


class PartWriter:
    """Write parts with one predictor."""

    def __init__(self, model: str, config: PredictorConfig, folder: OutputFolder) -> None:
        """Load the predictor; raises what `Predictor.load` does."""
        self._limits = config.limits or ImageLimits()
        self._folder = folder
        self._predictor = TimedPredictor.load(model, config)

    def write(self, part: Part) -> Counts:
        """Predict a part, and write its file; an exception at one input becomes the status of that input alone.

        Raises:
            OutputError: if the file cannot be written.
            DataError: if the source has changed since the run began.
        """
        images, faces = itertools.tee(part.inputs.read(self._limits))
        results = self._predictor.stream((item.image for item in images), boxes=(item.box for item in faces))
        try:
            outcomes = [(result, result.status) for result in results]
        except MotivNetError:
            raise
        except Exception:  # at which input, only a second pass one by one can tell
            return self.write_one_by_one(part, {}, lambda _: None)
        return self._write(part, outcomes)

    def write_one_by_one(
        self, part: Part, known: Mapping[int, Outcome | str], report: Callable[[int | tuple[int, Outcome]], None]
    ) -> Counts:
        """Predict the inputs of a part one at a time, and write its file.

        Args:
            part: to write.
            known: position in the part -> its outcome, or the error of an input that must not be tried again.
            report: called with the position of each input before it is tried, and with position and outcome after.

        Raises:
            OutputError: if the file cannot be written.
            DataError: if the source has changed since the run began.
        """
        outcomes = []
        for position, item in enumerate(part.inputs.read(self._limits)):
            outcome = known.get(position)
            if outcome is None:
                report(position)
                outcome = self._predict_one(item)
                report((position, outcome))
            outcomes.append(self._failed(item, outcome) if isinstance(outcome, str) else outcome)
        return self._write(part, outcomes)

    def _predict_one(self, item: Input) -> Outcome:
        try:
            (result,) = self._predictor.stream([item.image], boxes=[item.box])
        except MotivNetError:
            raise
        except Exception as error:  # whatever this input provokes
            return self._failed(item, f"{type(error).__name__}: {error}")
        return result, result.status

    def _failed(self, item: Input, error: str) -> Outcome:
        (result,) = self._predictor.stream([NamedImage(item.image.name, ImageError(error))])
        return result, "failed"

    def _write(self, part: Part, outcomes: list[Outcome]) -> Counts:
        if len(outcomes) != len(part.inputs):
            raise DataError(
                f"part {part.number}: {len(outcomes)} inputs could be read, expected {len(part.inputs)}; "
                "the source has changed since the run began"
            )
        rows = [
            {**row, "input": number, "status": status}
            for number, (result, status) in enumerate(outcomes, part.first)
            for row in to_rows(result)
        ]
        statuses = collections.Counter(status for _, status in outcomes)
        counts = Counts(len(outcomes), sum(len(result.faces) for result, _ in outcomes), dict(sorted(statuses.items())))
        columns = self._predictor.columns | {"input": "int64"}
        schema = pyarrow.schema(
            [(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()],
            {COUNTS_KEY: to_json(dataclasses.asdict(counts)).encode()},
        )
        file = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file)
        self._folder.write(part.name, file.getvalue())
        return counts


def decode_counts(part: bytes) -> Counts | None:
    """Read the counts of a part from its file, or the end of it; None if that is not a complete part."""
    try:
        return Counts(**json.loads(parquet.read_schema(io.BytesIO(part)).metadata[COUNTS_KEY]))
    except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError):
        return None
