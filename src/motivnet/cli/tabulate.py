"""`motivnet tabulate`: summaries and exports of rows that `motivnet video` wrote."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import echo
from motivnet.cli.options import Excel, Overwrite, argument
from motivnet.errors import ConfigError, needs_extra
from motivnet.video.video_config import TablesConfig


def tabulate(
    *,
    rows: Annotated[Path, argument("ROWS")],
    tables: TablesConfig,
    excel: Excel = False,
    overwrite: Overwrite = False,
) -> None:
    """Summarise the rows of videos by person, window and event; export them (needs the extra `video`).

    Example: motivnet tabulate rows.parquet --summary summary.csv --workbook rows.xlsx

    Options:
        rows: Table that `motivnet video --out` wrote.
    """
    with needs_extra("pandas", "video"):
        from motivnet.video import tabulate
    if not tables.outputs:
        raise ConfigError("nothing to write. Allowed: --summary, --windows, --responses, --workbook, --elan, --boris")
    tabulate.tabulate(rows, tables, overwrite=overwrite, excel=excel)
    echo(f"written to {', '.join(map(str, tables.outputs.values()))}", err=True)
