"""An audit as tables: `audit.md`, `audit.html` and `audit.json`."""

import math
from collections.abc import Iterator

import numpy as np

from motivnet.evaluation.fairness import Audit, Gap, Group
from motivnet.evaluation.resampling import Interval
from motivnet.report import page as report
from motivnet.report.tables import Block, Row, p_value, points, to_html, to_json, to_markdown

READING = (
    "Gaps are in percentage points, a group less all other groups of its column; images whose group is not known are "
    "in neither. The raw gap is the plain difference: groups that show other expressions differ in it without being "
    "treated differently. The adjusted gap compares faces of the same label (Mantel-Haenszel). Only it is tested.",
    "False positives of a negative emotion are faces labelled otherwise that are taken for it; a positive gap there is "
    "to the group's disadvantage.",
)


def audit_files(audit: Audit) -> dict[str, str]:
    """Write an audit three times: file name -> contents, the data last."""
    title, blocks = f"Audit of {audit.protocol.model}", list(_blocks(audit))
    labels = audit.protocol.labels
    heat = [
        report.Section(
            f"What was taken for what: {group.column} {group.name}",
            report.heat_map(np.array(group.confusion), labels, labels, caption="Rows: label. Columns: answer."),
        )
        for group in audit.groups
    ]
    return {
        "audit.md": to_markdown(title, blocks),
        "audit.html": to_html(title, blocks, more=heat),
        "audit.json": to_json(audit.to_dict()),
    }


def measure_name(measure: str) -> str:
    """Give a measure's name for people."""
    name = measure.removeprefix("fpr_")
    return f"false {name}" if name != measure else measure.upper()


def sentence(group: Group, gap: Gap, rest: str = "the other groups") -> str:
    """Say a significant gap in words; `rest` is what the group is compared with."""
    gap_points = 100 * (gap.adjusted or 0.0)
    more = "more" if gap_points > 0 else "fewer"
    fate = "classified rightly" if gap.measure == "war" else f"wrongly taken for {gap.measure.removeprefix('fpr_')}"
    return (
        f"{group.column} {group.name!r}: among faces of the same label, {abs(gap_points):.1f} points {more} are {fate} "
        f"than in {rest} (p, corrected: {p_value(gap.p_holm)})."
    )


def _blocks(audit: Audit) -> Iterator[Block]:
    yield Block("What was found", tuple(findings(audit)), (), READING)
    yield _protocol(audit)
    for column in audit.ungrouped:
        groups = [group for group in audit.groups if group.column == column]
        unknown = audit.ungrouped[column]
        notes = (f"{unknown:,} images have no value in this column.",) if unknown else ()
        yield Block(f"Groups by {column}", (), [_scores(group) for group in groups], notes)
        yield Block(f"Recall by {column}", (), [_recall(group) for group in groups])
        rows = [_gap(group, gap) for group in groups for gap in group.gaps]
        if rows:
            yield Block(f"Gaps by {column}", (), rows)


def findings(audit: Audit) -> Iterator[str]:
    """Say in a sentence each what is significant, or that nothing is."""
    if not audit.tests:
        yield "Nothing was tested: no column has two groups that are large enough."
        return
    found = audit.found
    if not found:
        yield (
            f"No gap among faces of the same label is significant after correction for {audit.tests} tests "
            f"(alpha {audit.alpha:g}). That is no proof of there being none: the intervals say how large one may be."
        )
    for group, gap in found:
        others = [each.name for each in audit.groups if each.column == group.column and each is not group]
        first = next(each for each in audit.groups if each.column == group.column)
        if len(others) > 1:
            yield sentence(group, gap)
        elif group is first:
            # The other's gap is the same.
            yield sentence(group, gap, repr(others[0]))


def _protocol(audit: Audit) -> Block:
    protocol = audit.protocol
    rows: list[Row] = [
        {"of": of, "is": value}
        for of, value in {
            "model": f"{protocol.model} ({protocol.model_fingerprint or 'fingerprint unknown'})",
            "data": f"{protocol.data} ({protocol.data_fingerprint})",
            "split": protocol.split or "all",
            "images": f"{protocol.n:,}",
            "left out": ", ".join(f"{number:,} ({why})" for why, number in protocol.dropped.items()) or "nothing",
            "face detection": protocol.detection,
            "images without an answer": "errors, and false positives of nothing",
            "smallest group tested": f"{audit.min_size} images",
            "tests": f"{audit.tests}, corrected together (Holm), chance of any false alarm {audit.alpha:g}",
            "test": f"{audit.permutations:,} permutations within labels; by random signs of whole subjects in "
            f"{', '.join(audit.by_subject)}"
            if audit.by_subject
            else f"{audit.permutations:,} permutations within labels",
            "intervals": f"{audit.level:.0%} of each gap alone, not corrected; bootstrap, seed {audit.seed}",
            "motivnet": protocol.version,
        }.items()
    ]
    return Block("What was measured", (), rows)


def _scores(group: Group) -> Row:
    return {
        "group": group.name,
        "images": group.n,
        "subjects": group.subjects,
        "without an answer": group.unanswered,
        "WAR": report.percent(group.war),
        "UAR": report.percent(group.uar),
        **{f"false {name}": _percent(value) for name, value in group.false_positives.items()},
        "not tested": group.untested or "",
    }


def _recall(group: Group) -> Row:
    return {"group": group.name, **{label: _percent(value) for label, value in group.recall.items()}}


def _gap(group: Group, gap: Gap) -> Row:
    return {
        "group": group.name,
        "measure": measure_name(gap.measure),
        "raw gap": _points(gap.raw, gap.raw_interval),
        "adjusted gap": _points(gap.adjusted, gap.interval),
        "p": p_value(gap.p_value),
        "p, corrected": p_value(gap.p_holm),
        "verdict": "significant" if gap.found else "",
    }


def _points(value: float | None, interval: Interval | None) -> str:
    return points(value, *(interval or (math.nan, math.nan)))


def _percent(value: float | None) -> str:
    return report.percent(math.nan if value is None else value)
