"""Results of predictions: one per image with one entry per face, and lists of them with tables and figures."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

import numpy as np

from motivnet.errors import ImageError, needs_extra
from motivnet.faces.pose import Pose, head_pose
from motivnet.images import ImageLimits, decode_image
from motivnet.inference.rows import LANDMARK_COLUMNS, Row, all_columns, face_columns, to_rows
from motivnet.preprocess import Box

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

    Kept = str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray

Status = Literal["ok", "no_face", "unreadable"]

# Faces whose shorter side is below this are marked as tiny.
TINY_SIDE_PX = 24
# Parquet type -> nullable pandas type.
PANDAS_TYPES = {"string": "string", "int32": "Int32", "int64": "Int64", "float64": "float64", "bool": "boolean"}
EXTRA = "notebook"
# Pixels and degrees, which JSON has with two decimals.
TWO_DECIMALS = ("x", "y", "width", "height", *LANDMARK_COLUMNS)


@dataclasses.dataclass(frozen=True, slots=True)
class FaceResult:
    """One face and its emotion.

    Args:
        box: the face, in pixels of the upright image; may reach beyond it.
        face_score: the detector's confidence, 0 to 1.
        emotion: the most probable label.
        probs: probability of every label, in label order; they sum to 1.
        abstained: whether the emotion's probability is below the requested threshold.
        valence: from -1, unpleasant, to 1; None if the model does not predict it.
        arousal: from -1, calm, to 1; None if the model does not predict it.
        landmarks: as of `Detection`; empty if the detector has none, None if they were not asked for.
    """

    box: Box
    face_score: float
    emotion: str
    probs: dict[str, float]
    abstained: bool = False
    valence: float | None = None
    arousal: float | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None

    @property
    def prob(self) -> float:
        """The probability of `emotion`."""
        return self.probs[self.emotion]

    @property
    def pose(self) -> Pose | None:
        """Yaw, pitch and roll of the head, fitted to the landmarks at each call; None without them."""
        return head_pose(self.landmarks) if self.landmarks else None

    @property
    def tiny(self) -> bool:
        """Whether the face is too small for a reliable emotion."""
        return min(self.box.width, self.box.height) < TINY_SIDE_PX

    def scaled(self, factor: float) -> "FaceResult":
        """Return the face in an image that is larger by this factor."""
        points = self.landmarks and tuple((factor * x, factor * y) for x, y in self.landmarks)
        return dataclasses.replace(self, box=self.box.scaled(factor), landmarks=points)

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the `k` most probable labels with their probabilities, best first."""
        return sorted(self.probs.items(), key=lambda item: -item[1])[:k]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, named like the columns of a table; what is unknown is None."""
        columns = face_columns(self)
        # Probabilities and scores are rounded once, where they are shown.
        rounded = {name: round(columns[name], 2) for name in TWO_DECIMALS if columns.get(name) is not None}
        return columns | rounded | {"probs": dict(self.probs)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """The result of one input.

    Args:
        source: its path or URL, or else `<kind position>`, such as `<bytes 3>`.
        status: `ok`: at least one face; `no_face`: readable, but without a face; `unreadable`: see `error`.
        error: why it could not be read; None otherwise.
        model: name of the model.
        preprocessing: fingerprint of the preprocessing.
        width: of the upright image, in pixels; None if unreadable.
        height: of the upright image, in pixels; None if unreadable.
        faces: largest first.
        blank: whether all pixels of its faces have the same value.
        image: source of the pixels for `picture`: a path, the bytes of a file, or an RGB array; None if not kept. Not
            compared, and not written to files.
    """

    source: str
    status: Status
    error: str | None = None
    model: str
    preprocessing: str
    width: int | None = None
    height: int | None = None
    faces: tuple[FaceResult, ...] = ()
    blank: bool = False
    image: "Kept | None" = dataclasses.field(default=None, repr=False, compare=False)

    def picture(self) -> np.ndarray:
        """Decode the image again.

        Returns:
            The upright RGB image, uint8 (height, width, 3), to whose pixels the boxes refer.

        Raises:
            ImageError: if it was not kept, could not be read, or the file is missing or has changed.
        """
        if self.image is None or self.width is None or self.height is None:
            raise ImageError(f"{self.source}: {self.error or 'its image was not kept; stream(keep_images=True) does'}")
        # The limits have been checked when it was first decoded.
        image_hwc_u8 = decode_image(self.image, limits=ImageLimits(max_pixels=self.width * self.height))
        if image_hwc_u8.shape[:2] != (self.height, self.width):
            raise ImageError(f"{self.source}: has changed since it was read")
        return image_hwc_u8

    def plot(self) -> "Figure":
        """Draw the image with its faces, and bars of their probabilities; see `motivnet.inference.display`.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        return Results([self]).plot()

    def _repr_html_(self) -> str:
        return Results([self])._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        named = ("source", "status", "error", "model", "preprocessing")
        faces = [{"face": number, **face.to_dict()} for number, face in enumerate(self.faces)]
        return {name: getattr(self, name) for name in named} | {"faces": faces}


class Results(list[ImageResult]):
    """A list of results in the order of the inputs, whose slices are also `Results`.

    Filter with `Results(result for result in results if result.status == "ok")`.
    """

    def __init__(self, results: Iterable[ImageResult] = (), *, labels: Sequence[str] | None = None) -> None:
        """Collect results of one model.

        Args:
            results: in order.
            labels: labels of the model, with one probability column each; None: those of the faces.
        """
        super().__init__(results)
        self._labels = labels

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> ImageResult: ...

    @overload
    def __getitem__(self, index: slice, /) -> "Results": ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> "ImageResult | Results":
        """Return one result, or a slice of them."""
        if isinstance(index, slice):
            return Results(super().__getitem__(index), labels=self._labels)
        return super().__getitem__(index)

    def columns(self) -> dict[str, str]:
        """Return the columns of the table, with their Parquet types."""
        labels = self._labels
        if labels is None:
            labels = dict.fromkeys(label for result in self for face in result.faces[:1] for label in face.probs)
        landmarks = any(face.landmarks is not None for result in self for face in result.faces)
        affect = any(face.valence is not None for result in self for face in result.faces)
        return all_columns(labels, landmarks=landmarks, affect=affect)

    def to_arrow(self) -> "pa.Table":
        """Return the table that `predict --out x.parquet` writes.

        Raises:
            MissingExtraError: if pyarrow is not installed.
        """
        with needs_extra("pyarrow", EXTRA):
            import pyarrow as pa
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in self.columns().items()])
        return pa.Table.from_pylist(self._rows(), schema)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table as a data frame; missing values are NA.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        with needs_extra("pandas", EXTRA):
            import pandas as pd
        types = {name: PANDAS_TYPES[kind] for name, kind in self.columns().items()}
        return pd.DataFrame(self._rows(), columns=list(types), dtype=object).astype(types)

    def plot(self) -> "Figure":
        """Draw the first images with their faces, and bars of their probabilities; see `motivnet.inference.display`.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        from motivnet.inference.display import plot_results

        return plot_results(self)

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the table to a .csv, .jsonl or .parquet file, as `motivnet predict --out` does.

        Raises:
            OutputError: if the file exists or cannot be written.
            MissingExtraError: if the format is Parquet and pyarrow is not installed.
        """
        from motivnet.inference.tables import open_table

        with open_table(Path(path), self.columns(), overwrite=overwrite) as write_row:
            for row in self._rows():
                write_row(row)

    def _rows(self) -> list[Row]:
        return [row for result in self for row in to_rows(result)]

    def _repr_html_(self) -> str:
        from motivnet.inference.display import to_html

        return to_html(self)
