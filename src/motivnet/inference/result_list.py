"""The results of several images: a list that becomes a table, a figure or a page of a notebook."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from motivnet.errors import MissingExtraError
from motivnet.inference.results import ImageResult
from motivnet.inference.rows import all_columns, to_rows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

# The types of columns in pandas, by those in Parquet: such as can be missing.
PANDAS_TYPES = {"string": "string", "int32": "Int32", "int64": "Int64", "float64": "float64", "bool": "boolean"}
EXTRA = "notebook"


class Results(list[ImageResult]):
    """A list of results, in the order of the inputs; slices of it are `Results` too.

    Any results become one: `Results(result for result in results if result.status == "ok")`.
    """

    def __init__(self, results: Iterable[ImageResult] = (), *, labels: Sequence[str] | None = None) -> None:
        """Take results of one model.

        Args:
            results: in order.
            labels: of the model, which give the probability columns; None takes them from the faces.
        """
        super().__init__(results)
        self._labels = labels

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> ImageResult: ...

    @overload
    def __getitem__(self, index: slice, /) -> "Results": ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> "ImageResult | Results":
        """Give one result, or some of them."""
        if isinstance(index, slice):
            return Results(super().__getitem__(index), labels=self._labels)
        return super().__getitem__(index)

    def columns(self) -> dict[str, str]:
        """Name the columns of the table, with the type that Parquet gives each: those of `motivnet predict --out`."""
        labels = self._labels
        if labels is None:
            labels = dict.fromkeys(label for result in self for face in result.faces[:1] for label in face.probs)
        return all_columns(labels)

    def to_arrow(self) -> "pa.Table":
        """Give a table of one row per face, and one for each image without: what `predict --out x.parquet` writes.

        Raises:
            MissingExtraError: if pyarrow is not installed.
        """
        try:
            import pyarrow as pa
        except ModuleNotFoundError:
            raise MissingExtraError("pyarrow", EXTRA) from None
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in self.columns().items()])
        return pa.Table.from_pylist(self._rows(), schema)

    def to_pandas(self) -> "pd.DataFrame":
        """Give the same table as a data frame; what has no value is missing, never 0.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise MissingExtraError("pandas", EXTRA) from None
        rows = self._rows()
        return pd.DataFrame(
            {
                name: pd.Series([row.get(name) for row in rows], dtype=PANDAS_TYPES[kind])
                for name, kind in self.columns().items()
            }
        )

    def plot(self) -> "Figure":
        """Draw the first images with their faces, and bars of their probabilities; see `motivnet.inference.plot`.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        from motivnet.inference.plot import plot_results

        return plot_results(self)

    def _rows(self) -> list[dict[str, Any]]:
        return [row for result in self for row in to_rows(result)]

    def _repr_html_(self) -> str:
        from motivnet.inference.html import to_html

        return to_html(self)
