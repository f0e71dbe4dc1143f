"""Tables made of the rows of videos, and their exports to Excel, ELAN and BORIS."""

import datetime
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from motivnet.errors import OutputError, needs_extra
from motivnet.evaluation.timeline import Rows, read_stretches
from motivnet.inference.tables import FORMATS, check_output, open_table
from motivnet.storage import atomic_path, write_json
from motivnet.video import measures
from motivnet.video.outputs import plan_files
from motivnet.video.video_config import TablesConfig

FORMATS_OF = {"workbook": (".xlsx",), "boris": (".boris",)}
# Of a sheet of Excel, without the line of names.
MAX_SHEET_ROWS = 1_048_575
# Column -> meaning; `prob_*` stands for one column per label.
CODEBOOK = Path(__file__).with_name("codebook.csv")
XSI = "http://www.w3.org/2001/XMLSchema-instance"


def plan_tables(
    config: TablesConfig, sources: Sequence[str | Path], rows: object = None, *, overwrite: bool
) -> list[Path]:
    """Check before any work that the files can be read and written; return ELAN's file of each source; `rows` is read or written too.

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
    if config.workbook:
        with needs_extra("xlsxwriter", "video"):
            import xlsxwriter  # noqa: F401
    files = plan_files([Path(source) for source in sources], None, {"elan": config.elan}, overwrite=overwrite)
    return [each["elan"] for each in files if each]


def tabulate(
    rows: Rows, config: TablesConfig, *, overwrite: bool = False, excel: bool = False
) -> dict[str, pd.DataFrame]:
    """Count what is in the rows of videos, and write the tables and exports that `config` names.

    Args:
        rows: a table that `label_video` wrote, its rows, or a data frame of them.
        config: what to count and to write; without `summary` the summary is returned all the same.
        overwrite: replace files that exist.
        excel: begin .csv files with a byte order mark.

    Returns:
        The tables: `summary`, `windows`, and `responses` if there are events.

    Raises:
        DataError: if the rows, names, events or baseline cannot be used.
        OutputError: if a file exists or cannot be written.
    """
    faces = measures.read_faces(rows, config.names, config.baseline)
    elan = plan_tables(config, list(faces.files), rows, overwrite=overwrite)
    tables = {"summary": measures.summarise_people(faces), "windows": measures.windows(faces, config.window_s)}
    if config.events:
        tables["responses"] = measures.responses(faces, config.events, config.before_s, config.after_s)
    runs = measures.stretches(faces)
    for source, path in zip(faces.files, elan, strict=False):
        _write_elan(path, source, runs[runs["source"] == source])
    if config.boris:
        write_json(config.boris, _boris(faces, runs))
    if config.workbook:
        _write_workbook(config.workbook, {**tables, "rows": faces.frame.drop(columns=["duration_s", "step"])})
    for name, table in tables.items():
        path = config.outputs.get(name)
        if path is not None:
            columns = {column: measures.kind_of(column) for column in table}
            with open_table(path, columns, overwrite=overwrite, excel=excel) as write:
                for row in table.astype(object).where(table.notna(), None).to_dict("records"):
                    write(row)  # type: ignore[arg-type]
    return tables


def _write_workbook(path: Path, sheets: Mapping[str, pd.DataFrame]) -> None:
    """Write sheets and a codebook of their columns. XlsxWriter, not openpyxl, which takes `=...` for a formula."""
    for name, frame in sheets.items():
        if len(frame) > MAX_SHEET_ROWS:
            raise OutputError(f"{path}: {len(frame):,} rows of {name}. Allowed in a sheet: {MAX_SHEET_ROWS:,}")
    options = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
    with atomic_path(path) as temporary, pd.ExcelWriter(temporary, "xlsxwriter", engine_kwargs=options) as writer:
        for name, frame in {**sheets, "codebook": _codebook(sheets)}.items():
            frame.to_excel(writer, sheet_name=name, index=False, freeze_panes=(1, 0))


def _codebook(sheets: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    meanings = pd.read_csv(CODEBOOK).set_index("column")["meaning"]
    found = []
    for sheet, frame in sheets.items():
        for column in map(str, frame):
            general = f"{column.partition('_')[0]}_*"
            found.append((sheet, column, meanings.get(column, meanings.get(general, ""))))
    return pd.DataFrame(found, columns=["sheet", "column", "meaning"])


def _write_elan(path: Path, source: str, runs: pd.DataFrame) -> None:
    """Write one video's stretches as an annotation document of ELAN, with a tier per person."""
    place, element = Path(source), ElementTree.SubElement
    root = ElementTree.Element("ANNOTATION_DOCUMENT", AUTHOR="motivnet", FORMAT="3.0", VERSION="3.0")
    root.set("DATE", datetime.datetime.now().astimezone().isoformat(timespec="seconds"))
    root.set(f"{{{XSI}}}noNamespaceSchemaLocation", "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = element(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    media = {"MEDIA_URL": place.absolute().as_uri(), "RELATIVE_MEDIA_URL": f"./{place.name}"}
    element(header, "MEDIA_DESCRIPTOR", media, MIME_TYPE=mimetypes.guess_type(place.name)[0] or "video/mp4")
    order, number = element(root, "TIME_ORDER"), 0
    for person, of in runs.groupby("person", sort=False):
        name = f"track {person}" if str(person).isdecimal() else str(person)
        about = {"TIER_ID": name, "PARTICIPANT": str(person), "ANNOTATOR": "motivnet"}
        tier = element(root, "TIER", about, LINGUISTIC_TYPE_REF="default-lt")
        for start_s, end_s, emotion in zip(of["start_s"], of["end_s"], of["emotion"], strict=True):
            number, start_ms = number + 1, round(1000 * start_s)
            slots = {"TIME_SLOT_REF1": f"ts{2 * number - 1}", "TIME_SLOT_REF2": f"ts{2 * number}"}
            ends_ms = (start_ms, max(start_ms + 1, round(1000 * end_s)))
            for slot, time_ms in zip(slots.values(), ends_ms, strict=True):
                element(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time_ms))
            annotation = element(tier, "ANNOTATION")
            aligned = element(annotation, "ALIGNABLE_ANNOTATION", slots, ANNOTATION_ID=f"a{number}")
            element(aligned, "ANNOTATION_VALUE").text = emotion
    kind = {"LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true", "GRAPHIC_REFERENCES": "false"}
    element(root, "LINGUISTIC_TYPE", kind)
    with atomic_path(path, parents=True) as temporary:
        ElementTree.ElementTree(root).write(temporary, "utf-8", xml_declaration=True)


def _boris(faces: measures.Faces, runs: pd.DataFrame) -> dict[str, object]:
    """Return a project of BORIS as plain data: emotions are states, people are subjects, files are observations."""
    now = datetime.datetime.now().isoformat(timespec="seconds")
    state = {"type": "State event", "key": "", "description": "", "category": "", "modifiers": "", "excluded": ""}
    behaviors = {str(place): state | {"code": label, "coding map": ""} for place, label in enumerate(faces.labels)}
    people = faces.frame["person"].drop_duplicates()
    subject = {"key": "", "description": ""}
    observations = {}
    for source, file in faces.files.items():
        own, of = runs[runs["source"] == source], faces.frame[faces.frame["source"] == source]
        both = [(row.start_s, row.end_s, row.person, row.emotion) for row in own.itertuples()]
        events = [[round(end, 3), person, emotion, "", "", "NA"] for *ends, person, emotion in both for end in ends]
        length_s, seconds = file["length_s"], of["time_s"].max() - of["time_s"].min()
        fps = (of["frame"].max() - of["frame"].min()) / seconds if seconds > 0 else 25.0
        media = {"length": length_s, "fps": float(fps), "hasVideo": True, "hasAudio": True}
        observations[source] = {
            "type": "MEDIA",
            "date": now,
            "description": "motivnet",
            "time offset": 0.0,
            "file": {str(player): [source] if player == 1 else [] for player in range(1, 9)},
            "media_info": {name: {source: value} for name, value in media.items()} | {"offset": {"1": 0.0}},
            "events": sorted(events, key=lambda event: event[0]),
            "independent_variables": {},
        }
    return {
        "project_format_version": "7.0",
        "project_name": "motivnet",
        "project_date": now,
        "project_description": "",
        "time_format": "s",
        "subjects_conf": {str(place): subject | {"name": person} for place, person in enumerate(people)},
        "behaviors_conf": behaviors,
        "observations": observations,
        "behavioral_categories": [],
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }
