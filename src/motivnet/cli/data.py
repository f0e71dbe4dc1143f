"""`motivnet data`: what is in a data set, what is wrong with it, and which rows to take."""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motivnet.cli.extras import needs_extra
from motivnet.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from rich.table import Table

    from motivnet.data.inspect import Inspection
    from motivnet.data.manifest import Manifest

data = typer.Typer(name="data", help="Inspect, build and sample data sets.", no_args_is_help=True)

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="KIND:PATH, such as fer2013:fer2013.parquet or folder:faces; KIND:PATH?OPTION=VALUE sets an option.",
    ),
]
ManifestOption = Annotated[Path, typer.Option(metavar="FILE", help="The manifest to write, a .parquet file.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace output that exists already.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of tables.")]

PROBLEM_FILES = ("problems.parquet", "problems.csv", "summary.json")
SHEETS = "sheet_*.png"
# Rich assumes 80 columns where there is no terminal.
PIPE_COLUMNS = 160


@data.command("inspect", epilog="Exit codes: 0 inspected; 1 a problem was found, with --strict; 2 a mistake.")
def inspect(
    source: SourceArgument,
    split: Annotated[str | None, typer.Option(help="Look at one split only.")] = None,
    no_pixels: Annotated[
        bool, typer.Option("--no-pixels", help="Open no image: look for files, and compare paths and subjects.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write every problem as a row, a summary, and a contact sheet per class."),
    ] = None,
    as_json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there is any problem.")] = False,
    overwrite: OverwriteOption = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and decode.")] = os.cpu_count() or 1,
) -> None:
    """Count what is in a data set, and find what is wrong with it.

    Problems are missing and unreadable files, faces' boxes outside their image, images of one value, files listed
    twice, exact and near duplicates, one image under two labels, and subjects that splits share.
    """
    if out:
        _check_folder(out, overwrite=overwrite)
    with needs_extra("pyarrow", "evaluate"):
        import cv2

        from motivnet.data.inspect import inspect_manifest

    # Our own threads work on one image each; OpenCV's would only get in their way.
    cv2.setNumThreads(1)
    manifest = _read(source, split)
    inspection = inspect_manifest(manifest, pixels=not no_pixels, workers=workers, track=_track)
    if out:
        _write_folder(inspection, out, pixels=not no_pixels)
        typer.echo(f"written to {out}", err=True)
    if as_json:
        typer.echo(json.dumps(inspection.to_dict()))
    else:
        _print_inspection(inspection)
    kinds = ", ".join(f"{kind} {counts['rows']:,}" for kind, counts in inspection.count_problems().items())
    typer.echo(f"problems: {kinds or 'none'}", err=True)
    if strict and kinds:
        raise typer.Exit(1)


@data.command("build")
def build(
    source: SourceArgument,
    out: ManifestOption,
    labels: Annotated[
        str | None,
        typer.Option(help="7 keeps the seven emotions, 8 contempt as well; the default keeps what the source has."),
    ] = None,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Read a data set and write it as a manifest, which `manifest:FILE` reads again."""
    _check_manifest(out, overwrite=overwrite)
    with needs_extra("pyarrow", "evaluate"):
        from motivnet.labels import EMOTIONS, WITH_CONTEMPT

    manifest = _read(source)
    if labels is not None:
        sets = {"7": EMOTIONS, "8": WITH_CONTEMPT}
        if labels not in sets:
            raise ConfigError(f"labels {labels!r}. Allowed: {', '.join(sets)}")
        manifest = manifest.restrict(sets[labels])
    _write_manifest(manifest, out)
    _say_counts(manifest, out, as_json=as_json)


@data.command("sample")
def sample(
    source: SourceArgument,
    out: ManifestOption,
    split: Annotated[str | None, typer.Option(help="Take rows of one split only.")] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="uniform: equally many rows of each class, without replacement; balanced: as many rows as there are, "
            "with replacement, each class equally often."
        ),
    ] = "uniform",
    per_class: Annotated[
        int | None, typer.Option(min=1, help="Rows of each class, of uniform; the default is the smallest class's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, which it decides on every platform.")] = 0,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw rows as training would, and write them as a manifest."""
    if kind not in ("uniform", "balanced"):
        raise ConfigError(f"kind {kind!r} draws no rows. Allowed: uniform, balanced")
    if per_class is not None and kind != "uniform":
        raise ConfigError("--per-class belongs to --kind uniform")
    _check_manifest(out, overwrite=overwrite)
    with needs_extra("pyarrow", "evaluate"):
        from motivnet.data.sampling import balanced_rows, uniform_rows

    manifest = _read(source, split)
    if kind == "uniform":
        rows = uniform_rows(manifest.targets, manifest.labels, per_class=per_class, seed=seed)
    else:
        rows = balanced_rows(manifest.targets, manifest.labels, seed=seed, epoch=0)
    manifest = manifest.select(rows)
    _write_manifest(manifest, out)
    _say_counts(manifest, out, as_json=as_json)


def _read(source: str, split: str | None = None) -> "Manifest":
    with needs_extra("pyarrow", "evaluate"):
        from motivnet.data.sources.named import read_source

    manifest = read_source(source)
    return manifest.split(split) if split else manifest


def _check_manifest(path: Path, *, overwrite: bool) -> None:
    """Refuse a manifest that could not be written, before any work is done."""
    from motivnet.inference.tables import check_output

    if path.suffix.lower() != ".parquet":
        raise OutputError(f"{path}: a manifest is a .parquet file")
    check_output(path, overwrite=overwrite)


def _write_manifest(manifest: "Manifest", path: Path) -> None:
    from motivnet.data.manifest import write_manifest

    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writing(path):
        try:
            write_manifest(manifest, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, not a folder")
    if folder.is_dir() and not overwrite and (names := sorted(path.name for path in _written(folder))):
        raise OutputError(f"{folder}: holds {names[0]} already; --overwrite replaces it")
    if not folder.absolute().parent.is_dir():
        raise OutputError(f"{folder}: the folder {folder.parent} does not exist")


def _written(folder: Path) -> list[Path]:
    """Name the files in a folder that an inspection wrote."""
    return [*filter(Path.is_file, (folder / name for name in PROBLEM_FILES)), *folder.glob(SHEETS)]


def _write_folder(inspection: "Inspection", folder: Path, *, pixels: bool) -> None:
    """Write everything into a temporary folder, and move it to its place when it is complete."""
    import pyarrow.csv
    import pyarrow.parquet

    new, unfinished = not folder.exists(), folder / f".inspection.{os.getpid()}.tmp"
    with _writing(folder):
        try:
            unfinished.mkdir(parents=True)
            pyarrow.parquet.write_table(inspection.problems, unfinished / "problems.parquet")
            pyarrow.csv.write_csv(inspection.problems, unfinished / "problems.csv")
            summary = json.dumps(inspection.to_dict(), indent=2) + "\n"
            (unfinished / "summary.json").write_text(summary, encoding="utf-8")
            if pixels:
                _draw_sheets(inspection, unfinished)
            for old in _written(folder):
                old.unlink()
            for file in unfinished.iterdir():
                file.replace(folder / file.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            if new and folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _draw_sheets(inspection: "Inspection", folder: Path) -> None:
    from motivnet.data.sheet import contact_sheet

    labels = inspection.manifest.labels.names
    for label in _track(labels, len(labels), "contact sheets"):
        sheet = contact_sheet(inspection.manifest, label, inspection.usable)
        # A label may hold what no file name can.
        name = re.sub(r"[^\w-]", "_", label)
        sheet.save(folder / f"sheet_{name}.png")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _track(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Show a bar on stderr while the items come, if somebody is there to see it."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total, console=Console(stderr=True), transient=True)


def _say_counts(manifest: "Manifest", path: Path, *, as_json: bool) -> None:
    if as_json:
        counts = {"rows": len(manifest), "counts": manifest.counts(), "dropped": dict(manifest.dropped)}
        typer.echo(json.dumps(counts))
    else:
        _print_tables(_counts_table(manifest), *_dropped_table(manifest.dropped))
    typer.echo(f"{len(manifest):,} rows written to {path}", err=True)


def _print_inspection(inspection: "Inspection") -> None:
    from motivnet.data.inspect import PROBLEMS

    found = inspection.to_dict()
    tables = [_counts_table(inspection.manifest), *_dropped_table(inspection.manifest.dropped)]
    splits = list(found["counts"])
    for group, values in found["groups"].items():
        rows = {
            value: {split: sum(by_split.get(split, {}).values()) for split in splits}
            for value, by_split in values.items()
        }
        tables.append(_table(f"group {group}", splits, rows))
    if len(splits) > 1:
        for kind, rows in found["copies"].items():
            title = "rows with an exact copy in" if kind == "exact" else "rows with a near copy, but no exact one, in"
            tables.append(_table(title, splits, rows))
    named = {f"{kind}: {PROBLEMS[kind]}": counts for kind, counts in found["problems"].items()}
    if named:
        tables.append(_table("problem", ["rows", "across_splits", "other_label"], named))
    _print_tables(*tables)


def _counts_table(manifest: "Manifest") -> "Table":
    counts = manifest.counts()
    rows = {label: {split: counts[split][label] for split in counts} for label in manifest.labels}
    rows["all"] = {split: sum(counts[split].values()) for split in counts}
    return _table("label", list(counts), rows)


def _dropped_table(dropped: Mapping[str, int]) -> "list[Table]":
    rows = {reason: {"rows": number} for reason, number in dropped.items()}
    return [_table("left out by the reader", ["rows"], rows)] if rows else []


def _table(title: str, columns: list[str], rows: Mapping[str, Mapping[str, int]]) -> "Table":
    """Lay out numbers: a row each, and - where a row has none."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(title), overflow="fold")
    for column in columns:
        table.add_column(Text(column.replace("_", " ")), justify="right", overflow="fold")
    for name, row in rows.items():
        table.add_row(Text(name), *(f"{row[column]:,}" if column in row else "-" for column in columns))
    return table


def _print_tables(*tables: "Table") -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    for table in tables:
        console.print(table)
