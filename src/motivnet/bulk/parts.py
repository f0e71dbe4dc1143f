"""What a worker of a bulk run does: load the model once, and turn parts of the inputs into Parquet files.

A part is `part_size` consecutive inputs and one file, `part-00042.parquet`, which is there with all its rows or not at
all. As a part's rows depend on its inputs, the model and the settings alone, it does not matter who writes it, or how
often.

Rows: those of `motivnet.inference.rows`, and a column `input`, the number of the input from 0. The status is that of
`ImageResult`, or `failed` for an input that broke the detector or the model. What the part amounts to stands in the
metadata of its file.
"""

import collections
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from motivnet.bulk.image_sources import Input, Slice
from motivnet.bulk.output_folder import Folder
from motivnet.errors import DataError, ImageError, MissingExtraError, MotivNetError
from motivnet.images import ImageLimits, NamedImage
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import Threshold
from motivnet.inference.results import ImageResult
from motivnet.inference.rows import all_columns, to_rows

COUNTS_KEY = b"motivnet.counts"

# What became of an input: its result, and the status of its rows.
Outcome = tuple[ImageResult, str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BulkSettings:
    """How the inputs are split and predicted; names and meanings are those of `Predictor.load`.

    Args:
        part_size: inputs per output file.
    """

    model: str = "nano"
    detector: str = "libfacedetection"
    part_size: int = 1000
    batch_size: int = 64
    workers: int = 2
    limits: ImageLimits = dataclasses.field(default_factory=ImageLimits)
    abstain_below: Threshold = None
    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    image_size: tuple[int, int] | None = None
    geometry: str | None = None
    num_heads: int | None = None
    threads: int | None = None

    def load(self) -> Predictor:
        """Load the predictor; raises what `Predictor.load` does."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del named["part_size"]
        return Predictor.load(named.pop("model"), **named)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive inputs, which become one file.

    Args:
        number: of the part, from 0.
        first: number of its first input.
        inputs: which they are.
    """

    number: int
    first: int
    inputs: Slice


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """What a part amounts to; `statuses` gives the inputs of each status."""

    inputs: int
    faces: int
    statuses: dict[str, int]


def part_name(number: int) -> str:
    """Name the file of a part."""
    return f"part-{number:05d}.parquet"


class PartWriter:
    """Turn parts into files, with one predictor."""

    def __init__(self, settings: BulkSettings, folder: Folder) -> None:
        """Load the predictor; raises what `Predictor.load` does."""
        self._limits = settings.limits
        self._folder = folder
        self._predictor = settings.load()

    def write(self, part: Part) -> Counts:
        """Predict a part, and write its file; whatever an input raises is its own status, and nobody else's.

        Raises:
            OutputError: if the file cannot be written.
            DataError: if the source is not what it was when the run began.
        """
        try:
            outcomes = list(self._together(part.inputs))
        except MotivNetError:
            raise
        except Exception:  # of which input it was, only trying them one by one tells
            return self.write_one_by_one(part, {}, lambda _: None)
        return self._write(part, outcomes)

    def write_one_by_one(
        self, part: Part, known: Mapping[int, Outcome | str], tell: Callable[[int | tuple[int, Outcome]], None]
    ) -> Counts:
        """Predict the inputs of a part one at a time, and write its file.

        Args:
            part: what to do.
            known: position in the part -> its outcome, or why it is not to be tried again.
            tell: called with the position of each input before it is tried, and with position and outcome after.

        Raises:
            OutputError: if the file cannot be written.
            DataError: if the source is not what it was when the run began.
        """
        outcomes = []
        for position, item in enumerate(part.inputs.read(self._limits)):
            outcome = known.get(position)
            if outcome is None:
                tell(position)
                outcome = self._alone(item)
                tell((position, outcome))
            elif isinstance(outcome, str):
                outcome = self._failed(item, outcome)
            outcomes.append(outcome)
        return self._write(part, outcomes)

    def _together(self, inputs: Slice) -> Iterator[Outcome]:
        images, faces = itertools.tee(inputs.read(self._limits))
        results = self._predictor.stream(map(_named, images), boxes=(item.box for item in faces))
        return ((result, result.status) for result in results)

    def _alone(self, item: Input) -> Outcome:
        try:
            (result,) = self._predictor.stream([_named(item)], boxes=[item.box])
        except MotivNetError:
            raise
        except Exception as error:  # whatever an input provokes
            return self._failed(item, f"{type(error).__name__}: {error}")
        return result, result.status

    def _failed(self, item: Input, error: str) -> Outcome:
        config = self._predictor.config
        result = ImageResult(
            source=item.name,
            status="unreadable",
            error=error,
            model=config.name,
            preprocessing=config.preprocessing.fingerprint,
        )
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
        faces = sum(len(result.faces) for result, _ in outcomes)
        counts = Counts(len(outcomes), faces, dict(sorted(statuses.items())))
        config = self._predictor.config
        columns = all_columns(config.labels.names) | {"input": "int64"}
        self._folder.write(part_name(part.number), encode_part(rows, columns, counts))
        return counts


def _named(item: Input) -> NamedImage:
    return NamedImage(item.name, item.data if item.error is None else ImageError(item.error))


def encode_part(rows: list[dict[str, Any]], columns: dict[str, str], counts: Counts) -> bytes:
    """Make the Parquet file of a part.

    Raises:
        MissingExtraError: if pyarrow is not installed.
    """
    pa, parquet = pyarrow()
    schema = pa.schema(
        [(name, pa.type_for_alias(kind)) for name, kind in columns.items()],
        {COUNTS_KEY: json.dumps(dataclasses.asdict(counts)).encode()},
    )
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema), file)
    return file.getvalue()


def decode_counts(part: bytes) -> Counts | None:
    """Read what a part amounts to, from its file; None if that is no whole part of a bulk run."""
    pa, parquet = pyarrow()
    try:
        return Counts(**json.loads(parquet.read_schema(io.BytesIO(part)).metadata[COUNTS_KEY]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def pyarrow() -> tuple[Any, Any]:
    """Import pyarrow and its Parquet module.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "scale") from None
    return pyarrow, parquet
