"""An audit as tables: `audit.md`, `audit.html` and `audit.json`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from motivnet.report.page import PROSE, Block, block_files, heat_map, p_value, percent, points, protocol_facts, rows_of

if TYPE_CHECKING:
    from motivnet.evaluation.fairness import Audit, Gap, Group


def audit_files(audit: "Audit") -> dict[str, str]:
    """Write an audit three times: file name -> contents, the data last."""
    labels = audit.protocol.labels
    caption = "Rows: true class; columns: predicted class."
    blocks = list(_blocks(audit))
    for group in audit.groups:
        heat = heat_map(np.array(group.confusion), labels, labels, caption=caption)
        blocks.append(Block(f"Confusion matrix: {group.column} {group.name}", html=heat))
    return block_files("audit", f"Audit of {audit.protocol.model}", blocks, audit.to_dict())


def findings(audit: "Audit") -> Iterator[str]:
    """Say in a sentence each what is significant, or that nothing is; and first, if the images were trained on."""
    if audit.caution:
        yield f"Warning: {audit.caution}"
    if not audit.tests:
        yield "Nothing was tested: no column has two groups that are large enough."
    elif not audit.found:
        yield (
            f"No gap among faces of the same label is significant after correction for {audit.tests} tests "
            f"(alpha {audit.alpha:g}). This does not prove that there is none: the intervals show how large it may be."
        )
    for group, gap in audit.found:
        names = [each.name for each in audit.groups if each.column == group.column]
        if len(names) > 2:
            yield _sentence(group, gap, "the other groups")
        elif group.name == names[0]:
            # The other's gap is the same.
            yield _sentence(group, gap, repr(names[1]))


def _sentence(group: "Group", gap: "Gap", rest: str) -> str:
    gap_points = 100 * (gap.adjusted or 0.0)
    more = "more" if gap_points > 0 else "fewer"
    emotion = gap.measure.removeprefix("fpr_")
    fate = "classified correctly" if gap.measure == "war" else f"wrongly predicted as {emotion}"
    return (
        f"{group.column} {group.name!r}: among faces of the same label, {abs(gap_points):.1f} points {more} are {fate} "
        f"than in {rest} (corrected p-value: {p_value(gap.p_holm)})."
    )


def _blocks(audit: "Audit") -> Iterator[Block]:
    yield Block("Findings", tuple(findings(audit)), (), tuple(PROSE["audit"]["reading"]))
    yield Block("Protocol", ("What exactly was measured.",), _protocol(audit))
    for column, unknown in audit.ungrouped.items():
        groups = [group for group in audit.groups if group.column == column]
        notes = (f"{unknown:,} images have no value in this column.",) if unknown else ()
        yield Block(f"Groups by {column}", (), [_scores(group) for group in groups], notes)
        yield Block(f"Recall by {column}", (), [{"group": group.name} | _percents(group.recall) for group in groups])
        rows = [_gap(group, gap) for group in groups for gap in group.gaps]
        if rows:
            yield Block(f"Gaps by {column}", (), rows)


def _protocol(audit: "Audit") -> list[dict[str, object]]:
    signs = f"; by random signs of whole subjects in {', '.join(audit.by_subject)}" if audit.by_subject else ""
    pairs = protocol_facts(audit.protocol) | {
        "images without an answer": "errors, but not false positives",
        "smallest group tested": f"{audit.min_size} images",
        "tests": f"{audit.tests}, corrected together (Holm), family-wise error rate {audit.alpha:g}",
        "test": f"{audit.permutations:,} permutations within labels{signs}",
        "intervals": f"{audit.level:.0%} of each gap alone, not corrected; bootstrap, seed {audit.seed}",
    }
    return rows_of(("setting", "value"), pairs.items())


def _scores(group: "Group") -> dict[str, object]:
    return {
        "group": group.name,
        "images": group.n,
        "subjects": group.subjects,
        "without an answer": group.unanswered,
        "WAR": percent(group.war),
        "UAR": percent(group.uar),
        **_percents(group.false_positives, "false "),
        "not tested": group.untested or "",
    }


def _percents(values: Mapping[str, float | None], prefix: str = "") -> dict[str, object]:
    return {f"{prefix}{name}": percent(value) for name, value in values.items()}


def _gap(group: "Group", gap: "Gap") -> dict[str, object]:
    name = gap.measure.removeprefix("fpr_")
    return {
        "group": group.name,
        "measure": name.upper() if name == gap.measure else f"false {name}",
        "raw gap": points(gap.raw, *(gap.raw_interval or ())),
        "adjusted gap": points(gap.adjusted, *(gap.interval or ())),
        "p": p_value(gap.p_value),
        "p, corrected": p_value(gap.p_holm),
        "verdict": "significant" if gap.found else "",
    }
