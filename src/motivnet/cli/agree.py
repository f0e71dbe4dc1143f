"""`motivnet agree`: agreement of the rows of videos with human coders."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import print_table
from motivnet.cli.options import Overwrite, argument, option
from motivnet.errors import needs_extra
from motivnet.evaluation.evaluation_config import AgreementConfig


def agree(
    *,
    rows: Annotated[Path, argument("ROWS")],
    coders: Annotated[list[Path], argument("CODERS")],
    out: Annotated[Path | None, option("OUT.csv")] = None,
    report: Annotated[Path | None, option("OUT.html")] = None,
    settings: AgreementConfig,
    names: Annotated[Path | None, option("TRACKS.csv")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure how well a model agrees with people who coded the same videos (needs the extra `evaluate`).

    Example: motivnet agree rows.parquet coder-a.eaf coder-b.eaf --report agreement.html

    Options:
        rows: Table that `motivnet video --out` wrote.
        coders: What people coded: .eaf (ELAN), .boris or .csv.
        out: Write the table: .csv, .parquet or .jsonl.
        report: Write a page.
        names: Names for tracks: columns source, track and name.
    """
    with needs_extra("pandas", "evaluate"):
        from motivnet.evaluation import agreement
    found = agreement.agree(rows, coders, settings, names=names, out=out, report=report, overwrite=overwrite)
    shown = {name: agreement.SCORES[name] for name in ("cohen_kappa", "fleiss_kappa", "alpha")}
    lines = [
        (row["comparison"], row["emotion"], f"{row['frames']:,}", *(agreement.in_words(row, name) for name in shown))
        for row in found.to_dict("records")
    ]
    print_table(("raters", "emotion", "frames", *shown.values()), lines)
