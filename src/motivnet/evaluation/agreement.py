"""Agreement of a model with human coders of videos, and of the coders with each other.

The unit is a frame with a face. Frames that follow each other resemble each other, so intervals resample stretches of
ten seconds. Cohen's and Fleiss' kappa and the intraclass correlation count the frames that everyone coded,
Krippendorff's alpha those that at least two did. Our own rather than krippendorff's, statsmodels' and pingouin's: these
take no weights, so each of a thousand resamples would repeat every frame (scikit-learn's Cohen's kappa takes them, and
would be a dependency for five lines).

Shape suffixes: B frames, P patterns (of codes, each once), R raters, C classes.
"""

# pandas declares what its methods return too widely for pyright.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motivnet.errors import ConfigError, DataError, reraised
from motivnet.evaluation import timeline
from motivnet.evaluation.evaluation_config import AgreementConfig
from motivnet.evaluation.resampling import Interval, bootstrap
from motivnet.inference.tables import FORMATS, check_output
from motivnet.labels import LabelSet
from motivnet.report.page import PROSE, Block, number, to_html
from motivnet.storage import write_text

MODEL = "model"
ALL = "all"
MISSING = -1
# Length of the stretches that are resampled, in seconds.
BLOCK_S = 10.0
SCORES = {
    "agreement": "same",
    "cohen_kappa": "Cohen's kappa",
    "fleiss_kappa": "Fleiss' kappa",
    "alpha": "Krippendorff's alpha",
    "icc_consistency": "ICC(C,1)",
    "icc_agreement": "ICC(A,1)",
}
NOTES = (*PROSE["agreement"]["reading"], f"Intervals hold 95 % of 1,000 resamples of whole stretches of {BLOCK_S:g} s.")


def agree(
    rows: timeline.Rows,
    coders: Sequence[str | Path],
    config: AgreementConfig | None = None,
    *,
    names: Path | None = None,
    out: Path | None = None,
    report: Path | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Compare the emotions in rows of videos with those that people coded.

    Where no coder names a person, the largest face of each frame counts.

    Args:
        rows: a table that `label_video` wrote, its rows, or a data frame of them.
        coders: files with stretches, as of `read_stretches`; their codes are emotions or synonyms such as `happy`.
        config: options; None takes the defaults.
        names: names of tracks, as of `read_rows`.
        out: a .csv, .parquet or .jsonl file for the table.
        report: an .html file for a page.
        overwrite: replace files that exist.

    Returns:
        One row per comparison (`anna - model`) and emotion: frames that all of them coded, and each of SCORES with
        columns `_low` and `_high`; missing where it is not defined.

    Raises:
        DataError: if a file cannot be used, a code is no label of the model, or a coder has two codes at one time.
        OutputError: if a file exists or cannot be written.
    """
    config = config or AgreementConfig()
    for path, formats in ((out, FORMATS), (report, (".html",))):
        if path is not None:
            check_output(path, overwrite=overwrite, formats=formats)
    faces = timeline.read_rows(rows, names)
    labels = LabelSet(timeline.labels_of(faces))
    if config.uncoded is not None and labels.find(config.uncoded) is None:
        raise ConfigError(f"uncoded {config.uncoded!r}: no label of the model. Allowed: {', '.join(labels)}")
    coded = pd.concat([_read_codes(Path(path), faces, labels) for path in coders], ignore_index=True)
    people = coded["person"].notna().any()
    units = faces[(faces["status"] == "ok") & (people | (faces["face"] == 0))]
    units = units.sort_values(["source", "person", "time_s"], ignore_index=True)
    codes, sizes = _code_units(units, coded, labels, config)
    codes[MODEL] = np.array([MISSING if pd.isna(each) else labels.index(each) for each in units["emotion"]], np.int64)
    sizes[MODEL] = units[[f"prob_{label}" for label in labels]].to_numpy(np.float64)
    blocks = units["source"] + "\n" + units["person"] + "\n" + (units["time_s"] // BLOCK_S).astype(str)
    raters = list(codes)
    groups = [*itertools.combinations(raters, 2), *([tuple(raters[:-1])] if len(raters) > 3 else [])]
    groups += [tuple(raters)] if len(raters) > 2 else []
    found = []
    for group in groups:
        codes_BR = np.stack([codes[rater] for rater in group], axis=1)
        if config.tolerance_s:
            codes_BR = _tolerate(codes_BR, units, config.tolerance_s)
        sizes_BRC = np.stack([sizes[rater] for rater in group], axis=1)
        rated = _Rated(codes_BR, sizes_BRC, labels)
        if not rated.num_frames:
            raise DataError(f"no frame was coded by all of {', '.join(group)}. Allowed: codes of the same times")
        ends = bootstrap(rated.scores, blocks.tolist(), seed=config.seed)
        found += _table_rows(" - ".join(group), rated, ends)
    table = pd.DataFrame(found)
    if out is not None:
        texts = ("comparison", "emotion")
        types = {name: "string" if name in texts else "float64" for name in table} | {"frames": "int64"}
        timeline.write_frame(out, table, types, overwrite=overwrite)
    if report is not None:
        write_text(report, to_html("Agreement with human coders", _blocks(table, config)))
    return table


def _read_codes(path: Path, faces: pd.DataFrame, labels: LabelSet) -> pd.DataFrame:
    """Read one file of coders: stretches whose codes are positions of labels, and whose ends are known."""
    found = timeline.read_stretches(path)
    found["source"] = [
        each[0] for each in timeline.match_sources(path, found["source"], list(faces["source"].unique()))
    ]
    timeline.check_people(path, found["person"], faces["person"])
    found["coder"] = found["coder"].fillna(path.stem)
    if MODEL in set(found["coder"]):
        raise DataError(f"{path}: coder {MODEL!r} is the name of the model here. Allowed: other names")
    with reraised(DataError, path, DataError):
        found["code"] = [labels.index(code) for code in found["code"]]
    keys = ["source", "coder", "person"]
    found = found.sort_values([*keys, "start_s"], ignore_index=True)
    follows = found.groupby(keys, dropna=False)["start_s"].shift(-1)
    found["end_s"] = found["end_s"].fillna(follows).fillna(np.inf)
    # Times of files are rounded to milliseconds.
    twice = found[found["end_s"] > follows + 0.002]
    if len(twice):
        source, coder, end_s = twice.iloc[0][["source", "coder", "end_s"]]
        raise DataError(f"{path}: {coder} has two codes in {source} before {end_s:.3f} s. Allowed: one at a time")
    return found


def _code_units(
    units: pd.DataFrame, coded: pd.DataFrame, labels: LabelSet, config: AgreementConfig
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return by coder the code of each frame, (B,), MISSING without one, and intensities, (B, C), NaN without one."""
    codes, sizes = {}, {}
    uncoded = MISSING if config.uncoded is None else labels.index(config.uncoded)
    for (coder, source, person), of in coded.groupby(["coder", "source", "person"], dropna=False):
        codes_B = codes.setdefault(coder, np.full(len(units), MISSING))
        sizes_BC = sizes.setdefault(coder, np.full((len(units), len(labels)), np.nan))
        mine = (units["source"] == source) & ((units["person"] == person) if pd.notna(person) else True)
        at, times = np.flatnonzero(mine), units["time_s"][mine].to_numpy()
        place = np.searchsorted(of["start_s"], times, "right") - 1
        inside = (place >= 0) & (times < of["end_s"].to_numpy()[place])
        codes_B[at] = np.where(inside, of["code"].to_numpy()[place], uncoded)
        if of["intensity"].notna().any():
            shown = np.where(inside, of["intensity"].to_numpy()[place], 0.0)
            hot_BC = codes_B[at, None] == np.arange(len(labels))
            sizes_BC[at] = np.where(codes_B[at, None] == MISSING, np.nan, hot_BC * shown[:, None])
    return codes, sizes


def _tolerate(codes_BR: np.ndarray, units: pd.DataFrame, tolerance_s: float) -> np.ndarray:
    """Give each rater the first one's code where the rater has it within the tolerance."""
    found_BR = codes_BR.copy()
    for at in units.groupby(["source", "person"]).indices.values():
        times, first = units["time_s"].to_numpy()[at], codes_BR[at, 0]
        for rater, code in itertools.product(range(1, codes_BR.shape[1]), np.unique(first[first != MISSING])):
            theirs = times[codes_BR[at, rater] == code]
            wanted = np.flatnonzero((first == code) & (codes_BR[at, rater] != MISSING))
            # Times are rounded to microseconds.
            place = np.searchsorted(theirs, times[wanted] - tolerance_s - 1e-6)
            near = np.append(theirs, np.inf)[place] <= times[wanted] + tolerance_s + 1e-6
            found_BR[at[wanted[near]], rater] = code
    return found_BR


class _Rated:
    """The codes of some raters, and all scores of them under weights."""

    def __init__(self, codes_BR: np.ndarray, sizes_BRC: np.ndarray, labels: LabelSet) -> None:
        self.labels = labels
        self.patterns_PR, inverse = np.unique(codes_BR, axis=0, return_inverse=True)
        self.pattern_B = inverse.reshape(-1)
        self.complete_P = (self.patterns_PR != MISSING).all(axis=1)
        self.num_frames = int(self.complete_P[self.pattern_B].sum())
        self.sized_B = ~np.isnan(sizes_BRC).any(axis=(1, 2))
        self.sizes_BRC = sizes_BRC[self.sized_B]

    def scores(self, weights_B: np.ndarray) -> dict[str, float]:
        """Return the scores, by `emotion score`."""
        weights_P = np.bincount(self.pattern_B, weights_B, len(self.patterns_PR))
        found = _categorical(self.patterns_PR, weights_P, len(self.labels), ALL)
        for code, label in enumerate(self.labels):
            binary_PR = np.where(self.patterns_PR == MISSING, MISSING, self.patterns_PR == code)
            found |= _categorical(binary_PR, weights_P, 2, label)
            if len(self.sizes_BRC):
                agreement, consistency = icc(self.sizes_BRC[:, :, code], weights_B[self.sized_B])
                found |= {f"{label} icc_agreement": agreement, f"{label} icc_consistency": consistency}
        return found


def _categorical(codes_PR: np.ndarray, weights_P: np.ndarray, num_classes: int, name: str) -> dict[str, float]:
    counts_PC = (codes_PR[:, :, None] == np.arange(num_classes)).sum(axis=1)
    full_P = counts_PC.sum(axis=1) == codes_PR.shape[1]
    codes, counts, weights = codes_PR[full_P], counts_PC[full_P], weights_P[full_P]
    with np.errstate(invalid="ignore", divide="ignore"):
        same = np.float64(weights[(codes == codes[:, :1]).all(axis=1)].sum()) / weights.sum()
        found = {"agreement": same, "fleiss_kappa": fleiss_kappa(counts, weights), "alpha": alpha(counts_PC, weights_P)}
        if codes.shape[1] == 2:
            found["cohen_kappa"] = cohen_kappa(codes, weights, num_classes)
    return {f"{name} {score}": float(value) for score, value in found.items()}


def cohen_kappa(codes_P2: np.ndarray, weights_P: np.ndarray, num_classes: int) -> float:
    """Return Cohen's kappa (1960) of two raters; NaN if both use one code alone."""
    pairs = np.bincount(codes_P2 @ [num_classes, 1], weights_P, num_classes**2)
    share_CC = pairs.reshape(num_classes, num_classes) / weights_P.sum()
    chance = share_CC.sum(axis=0) @ share_CC.sum(axis=1)
    return (np.trace(share_CC) - chance) / np.float64(1 - chance)


def fleiss_kappa(counts_PC: np.ndarray, weights_P: np.ndarray) -> float:
    """Return Fleiss' kappa (1971) of the numbers of raters that gave each code, as many in each row; NaN for one."""
    num = counts_PC[0].sum() if len(counts_PC) else 0
    same_P = ((counts_PC**2).sum(axis=1) - num) / np.float64(num * (num - 1))
    chance = ((weights_P @ counts_PC / (weights_P.sum() * num)) ** 2).sum()
    return (weights_P @ same_P / weights_P.sum() - chance) / (1 - chance)


def alpha(counts_PC: np.ndarray, weights_P: np.ndarray) -> float:
    """Return Krippendorff's alpha for nominal data (2011) of the numbers of raters that gave each code."""
    weights_P = np.where(counts_PC.sum(axis=1) > 1, weights_P, 0.0)
    raters_P, total_C = counts_PC.sum(axis=1), weights_P @ counts_PC
    observed = weights_P @ ((raters_P**2 - (counts_PC**2).sum(axis=1)) / np.maximum(raters_P - 1, 1))
    expected = (total_C.sum() ** 2 - (total_C**2).sum()) / np.float64(total_C.sum() - 1)
    return 1 - observed / expected


def icc(sizes_BR: np.ndarray, weights_B: np.ndarray) -> tuple[float, float]:
    """Return ICC(A,1), absolute agreement, and ICC(C,1), consistency, of a single rater (McGraw and Wong, 1996)."""
    num, raters = weights_B.sum(), sizes_BR.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        row_B1, column_R = sizes_BR.mean(axis=1, keepdims=True), weights_B @ sizes_BR / num
        mean = column_R.mean()
        rows = raters * (weights_B @ (row_B1 - mean) ** 2)[0] / (num - 1)
        columns = num * ((column_R - mean) ** 2).sum() / (raters - 1)
        error = (weights_B @ (sizes_BR - row_B1 - column_R + mean) ** 2).sum() / ((num - 1) * (raters - 1))
        total = rows + (raters - 1) * error
        return float((rows - error) / (total + raters * (columns - error) / num)), float((rows - error) / total)


def _table_rows(comparison: str, rated: _Rated, ends: Mapping[str, Interval]) -> list[dict[str, object]]:
    values = rated.scores(np.ones(len(rated.pattern_B)))
    found = []
    for emotion in (ALL, *rated.labels):
        row: dict[str, object] = {"comparison": comparison, "emotion": emotion, "frames": rated.num_frames}
        for score in SCORES:
            name = f"{emotion} {score}"
            low, high = ends.get(name, (np.nan, np.nan))
            row |= {score: values.get(name, np.nan), f"{score}_low": low, f"{score}_high": high}
        found.append(row)
    return found


def _blocks(table: pd.DataFrame, config: AgreementConfig) -> list[Block]:
    blocks = []
    for comparison, of in table.groupby("comparison", sort=False):
        shown = [score for score in SCORES if of[score].notna().any()]
        lines = [
            {"emotion": row["emotion"]} | {SCORES[score]: in_words(row, score) for score in shown}
            for row in of.to_dict("records")
        ]
        blocks.append(Block(str(comparison), (f"{of['frames'].iloc[0]:,} frames that all of them coded.",), lines))
    chosen = f"Tolerance, towards the codes of the first rater named: {config.tolerance_s:g} s. "
    chosen += f"Where nothing was coded: {config.uncoded or 'left out'}."
    return [*blocks, Block("How to read this", (*NOTES, chosen))]


def in_words(row: Mapping[Any, Any], score: str) -> str:
    """Return a score of a row of the table with its interval, for display."""
    return number(row[score], (row[f"{score}_low"], row[f"{score}_high"]))
