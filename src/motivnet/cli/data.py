"""`motivnet data`: inspect, build and sample data sets."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.console import echo, make_table, print_tables, track
from motivnet.cli.options import Overwrite, argument, flag, option
from motivnet.config import to_json
from motivnet.errors import ConfigError, OutputError, for_terminal, needs_extra
from motivnet.labels import EMOTIONS, WITH_CONTEMPT

if TYPE_CHECKING:
    from rich.table import Table

    from motivnet.data.inspect import Inspection
    from motivnet.data.manifest import Manifest

data = typer.Typer(name="data", help="Inspect, build and sample data sets.", no_args_is_help=True)

SourceArgument = Annotated[
    str,
    argument(
        "SOURCE",
        help="KIND:PATH or KIND:PATH@SPLIT, such as fer2013:fer2013.parquet; KIND:PATH?OPTION=VALUE sets an option.",
    ),
]
ManifestOption = Annotated[Path, option("FILE", help="The manifest to write, a .parquet file.")]
JsonOption = Annotated[bool, flag("--json", help="Print one JSON object in place of tables.")]


@data.command("inspect", epilog="Exit codes: 0 inspected; 1 a problem was found, with --strict; 2 a mistake.")
def inspect(
    source: SourceArgument,
    split: str | None = None,
    no_pixels: Annotated[bool, flag("--no-pixels")] = False,
    out: Annotated[Path | None, option("DIR")] = None,
    as_json: JsonOption = False,
    strict: Annotated[bool, flag("--strict")] = False,
    overwrite: Overwrite = False,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
) -> None:
    """Count what is in a data set, and find its problems.

    Problems are missing and unreadable files, face boxes outside their image, blank images, files listed twice, exact
    and near duplicates, one image under two labels, and subjects shared by splits.

    Example: motivnet data inspect folder:faces --out problems

    Options:
        split: Inspect one split only.
        no_pixels: Decode no image: check files, paths and subjects only.
        out: Write every problem as a row, a summary, and a contact sheet per class.
        strict: Exit with 1 if there is any problem.
        workers: Threads that read and decode.
    """
    if out:
        _check_folder(out, overwrite=overwrite)
    manifest = _read(source, split)
    from motivnet.data.inspect import inspect_manifest

    inspection = inspect_manifest(manifest, pixels=not no_pixels, workers=workers, track=track)
    if out:
        inspection.write(out, track=track)
        echo(f"written to {out}", err=True)
    if as_json:
        echo(to_json(inspection.to_dict()))
    else:
        _print_inspection(inspection)
    kinds = ", ".join(f"{kind} {counts['rows']:,}" for kind, counts in inspection.count_problems().items())
    echo(f"problems: {kinds or 'none'}", err=True)
    if strict and kinds:
        raise typer.Exit(1)


@data.command("build")
def build(
    source: SourceArgument,
    out: ManifestOption,
    labels: str | None = None,
    as_json: JsonOption = False,
    overwrite: Overwrite = False,
) -> None:
    """Read a data set and write it as a manifest, which `manifest:FILE` reads again.

    Example: motivnet data build folder:faces --out faces.parquet

    Options:
        labels: 7: the seven emotions; 8: with contempt; default: as in the source.
    """
    _check_manifest(out, overwrite=overwrite)
    manifest = _read(source)
    if labels is not None:
        sets = {"7": EMOTIONS, "8": WITH_CONTEMPT}
        if labels not in sets:
            raise ConfigError(f"labels {labels!r}. Allowed: {', '.join(sets)}")
        manifest = manifest.restrict(sets[labels])
    _write(manifest, out, as_json=as_json)


@data.command("sample")
def sample(
    source: SourceArgument,
    out: ManifestOption,
    split: str | None = None,
    kind: str = "uniform",
    per_class: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: JsonOption = False,
    overwrite: Overwrite = False,
) -> None:
    """Sample rows as training would, and write them as a manifest.

    Example: motivnet data sample fer2013:fer2013.parquet@Training --per-class 100 --out sample.parquet

    Options:
        split: Sample from one split only.
        kind: uniform: the same number of rows per class, without replacement; balanced: all rows, with replacement,
            each class equally often.
        per_class: Rows per class, for uniform; default: size of the smallest class.
        seed: Random seed; the sample is the same on every platform.
    """
    if kind not in ("uniform", "balanced"):
        raise ConfigError(f"unknown kind {kind!r}. Allowed: uniform, balanced")
    if per_class is not None and kind != "uniform":
        raise ConfigError("--per-class belongs to --kind uniform")
    _check_manifest(out, overwrite=overwrite)
    manifest = _read(source, split)
    from motivnet.data.sampling import balanced_rows, uniform_rows

    if kind == "uniform":
        rows = uniform_rows(manifest.targets, manifest.labels, per_class=per_class, seed=seed)
    else:
        rows = balanced_rows(manifest.targets, manifest.labels, seed=seed, epoch=0)
    _write(manifest.select(rows), out, as_json=as_json)


def _read(source: str, split: str | None = None) -> "Manifest":
    with needs_extra("pyarrow", "evaluate"):
        from motivnet.data.sources.named import read_source, split_off

    source, split = split_off(source, split)
    manifest = read_source(source)
    return manifest.split(split) if split else manifest


def _check_manifest(path: Path, *, overwrite: bool) -> None:
    """Check that a manifest can be written, before any work is done."""
    from motivnet.inference.tables import check_output

    if path.suffix.lower() != ".parquet":
        raise OutputError(f"{path}: a manifest is a .parquet file")
    check_output(path, overwrite=overwrite)


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    from motivnet.inference.tables import check_folder

    with needs_extra("pyarrow", "evaluate"):
        from motivnet.data.inspect import written_files
    check_folder(folder, [path.name for path in written_files(folder)], overwrite=overwrite)
    if not folder.absolute().parent.is_dir():
        raise OutputError(f"{folder}: the folder {folder.parent} does not exist")


def _write(manifest: "Manifest", path: Path, *, as_json: bool) -> None:
    """Write a manifest and print its counts."""
    from motivnet.data.manifest import write_manifest

    write_manifest(manifest, path)
    if as_json:
        counts = {"rows": len(manifest), "counts": manifest.counts(), "dropped": dict(manifest.dropped)}
        echo(to_json(counts))
    else:
        print_tables(_counts_table(manifest), *_dropped_table(manifest.dropped))
    echo(f"{len(manifest):,} rows written to {path}", err=True)


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
    print_tables(*tables)


def _counts_table(manifest: "Manifest") -> "Table":
    counts = manifest.counts()
    rows = {label: {split: counts[split][label] for split in counts} for label in manifest.labels}
    rows["all"] = {split: sum(counts[split].values()) for split in counts}
    return _table("label", list(counts), rows)


def _dropped_table(dropped: Mapping[str, int]) -> "list[Table]":
    rows = {reason: {"rows": number} for reason, number in dropped.items()}
    return [_table("left out by the reader", ["rows"], rows)] if rows else []


def _table(title: str, columns: list[str], rows: Mapping[str, Mapping[str, int]]) -> "Table":
    """Build a table of numbers, with `-` for missing ones."""
    from rich.text import Text

    numbers = [column.replace("_", " ") for column in columns]
    table = make_table([title, *numbers], right=numbers)
    for name, row in rows.items():
        table.add_row(Text(for_terminal(name)), *(f"{row[column]:,}" if column in row else "-" for column in columns))
    return table
