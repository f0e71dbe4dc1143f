"""Tables made of the rows of videos, and their exports to Excel, ELAN and BORIS."""

import datetime
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import pandas as pd
import xlsxwriter  # noqa: F401 - which pandas uses; an error now rather than when the workbook is written

from motivnet.errors import OutputError
from motivnet.evaluation.timeline import Rows, read_stretches, write_frame
from motivnet.inference.rows import described
from motivnet.inference.tables import FORMATS, check_output
from motivnet.storage import atomic_path, write_text
from motivnet.video import measures
from motivnet.video.outputs import plan_files
from motivnet.video.video_config import TablesConfig

FORMATS_OF = {"workbook": (".xlsx",), "boris": (".boris",)}
# Of a sheet of Excel, without the line of names.
MAX_SHEET_ROWS = 1_048_575
# Beside this module: the files of ELAN and BORIS.
ELAN, BORIS = map(Path(__file__).with_name, ("elan.eaf.jinja", "project.boris.jinja"))


def plan_tables(
    config: TablesConfig, sources: Sequence[str | Path], rows: object = None, *, overwrite: bool
) -> list[Path]:
    """Check before any work that the files can be read and written.

    Args:
        config: names them.
        sources: the videos.
        rows: another file that is read or written.
        overwrite: whether files that exist may be replaced.

    Returns:
        ELAN's file of each source.

    Raises:
        OutputError: if a file exists, is named twice or has another suffix.
        DataError: if the events or the baseline cannot be read.
    """
    taken = [*config.outputs.values(), rows]
    for option, path in config.outputs.items():
        if taken.count(path) > 1:
            raise OutputError(f"{path}: is named twice")
        if option != "elan":
            check_output(path, overwrite=overwrite, formats=FORMATS_OF.get(option, FORMATS))
    for path in (config.events, config.baseline):
        if path is not None and str(path) != measures.ESTIMATED:
            read_stretches(Path(path))
    files = plan_files([Path(source) for source in sources], None, {"elan": config.elan}, overwrite=overwrite)
    return [each["elan"] for each in files if each]


def tabulate(
    rows: Rows, config: TablesConfig, *, overwrite: bool = False, excel: bool = False
) -> dict[str, pd.DataFrame]:
    """Count what is in the rows of videos, and write the tables and exports that `config` names.

    Args:
        rows: a table that `label_video` wrote, its rows, or a data frame of them.
        config: what to count and to write.
        overwrite: replace files that exist.
        excel: begin .csv files with a byte order mark.

    Returns:
        The tables, written or not: `summary`, `windows`, and `responses` if there are events.

    Raises:
        DataError: if the rows, names, events or baseline cannot be used.
        OutputError: if a file exists or cannot be written.
    """
    faces = measures.read_faces(rows, config.names, config.baseline)
    elan = plan_tables(config, list(faces.files), rows, overwrite=overwrite)
    tables = {"summary": measures.summarise_people(faces), "windows": measures.windows(faces, config.window_s)}
    if config.events:
        tables["responses"] = measures.responses(faces, config.events)
    runs = measures.stretches(faces)
    for source, path in zip(faces.files, elan, strict=False):
        mime = mimetypes.guess_type(source)[0] or "video/mp4"
        write_text(path, _fill(ELAN, runs.loc[runs["source"] == source], path=Path(source), mime=mime), parents=True)
    if config.boris:
        readable = {source: file for source, file in faces.files.items() if file["status"] != "unreadable"}
        write_text(config.boris, _fill(BORIS, runs, files=readable, labels=faces.labels))
    if config.workbook:
        _write_workbook(config.workbook, {**tables, "rows": faces.frame.drop(columns=["duration_s", "step"])})
    for name in config.outputs.keys() & tables:
        columns = {column: described(column)["type"] for column in tables[name]}
        write_frame(config.outputs[name], tables[name], columns, overwrite=overwrite, excel=excel)
    return tables


def _fill(template: Path, runs: pd.DataFrame, **values: object) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    listed = list(runs.reset_index(drop=True).itertuples())
    return environment.from_string(template.read_text(encoding="utf-8")).render(runs=listed, now=now, **values)


def _write_workbook(path: Path, sheets: Mapping[str, pd.DataFrame]) -> None:
    """Write sheets and a codebook of their columns. XlsxWriter, as openpyxl takes text such as `=1` for a formula."""
    lines = []
    for name, frame in sheets.items():
        if len(frame) > MAX_SHEET_ROWS:
            raise OutputError(f"{path}: {len(frame):,} {name}. Allowed in a sheet: {MAX_SHEET_ROWS:,} rows")
        lines += [(name, column, described(column)["meaning"]) for column in map(str, frame)]
    codebook = pd.DataFrame(lines, columns=["sheet", "column", "meaning"])
    options = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
    with atomic_path(path) as temporary, pd.ExcelWriter(temporary, "xlsxwriter", engine_kwargs=options) as writer:
        for name, frame in {**sheets, "codebook": codebook}.items():
            frame.to_excel(writer, sheet_name=name, index=False, freeze_panes=(1, 0))
