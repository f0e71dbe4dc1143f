"""The page of an evaluation: `motivnet evaluate` writes it as report.html.

Shape suffixes: B images, C classes, M bins.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from motivnet.checkpoints.bundle import Calibration
from motivnet.errors import ImageError
from motivnet.preprocess import crop
from motivnet.report import page as report
from motivnet.report.page import NOTHING, Block, number, percent

if TYPE_CHECKING:
    from motivnet.evaluation.evaluate import Evaluation
    from motivnet.evaluation.predictions import Predictions
    from motivnet.evaluation.probabilities import Reliability

PROSE = report.PROSE["evaluation"]
NUM_MISTAKES = 24
# A column of more values identifies images rather than groups them.
MAX_VALUES = 40
CLASS_SCORES = {"recall": "recall", "precision": "precision", "f1": "F1"}
# Metric -> its name, and what it means.
METRICS: Mapping[str, tuple[str, str]] = PROSE["metrics"]
# Metrics that are no shares.
NUMBERS = ("log_loss", "brier")
UNANSWERED_WORDS = {"no_face": "without a detected face", "unreadable": "unreadable"}


def evaluation_report(evaluation: "Evaluation", *, with_thumbnails: bool = True) -> str:
    """Return the page.

    Args:
        evaluation: to show.
        with_thumbnails: embed small copies of the images; otherwise mistakes are named only.
    """
    protocol = evaluation.protocol
    name = PurePath(protocol.data.partition(":")[2].partition("?")[0]).name or protocol.data
    title = f"{protocol.model} on {name}{f', {protocol.split}' if protocol.split else ''}"
    return report.to_html(title, _blocks(evaluation, with_thumbnails=with_thumbnails))


def _blocks(evaluation: "Evaluation", *, with_thumbnails: bool) -> Iterator[Block]:
    scored = evaluation.predictions.scored
    yield Block("Protocol", ("What exactly was measured.",), html=_protocol(evaluation))
    yield _metrics(evaluation)
    about = "How often images of each label (rows) were predicted as each class (columns)."
    yield Block("Confusion matrix", (about,), html=_confusion(evaluation, scored))
    yield _per_class(evaluation)
    if evaluation.affect:
        yield _affect(evaluation)
    if evaluation.robustness:
        yield _robustness(evaluation)
    if evaluation.reliability:
        about = "How far probabilities can be trusted: of answers with a confidence of 80 %, 80 % should be correct."
        yield Block("Reliability diagram", (about,), html=_reliability(evaluation.reliability, scored))
        yield _mistakes(scored, with_thumbnails=with_thumbnails)
    if evaluation.groups:
        yield _groups(evaluation.groups)


def _protocol(evaluation: "Evaluation") -> Markup:
    protocol, status, boot = evaluation.protocol, evaluation.status, evaluation.bootstrap
    absent = [label for label, values in evaluation.per_class.items() if not values["n"]]
    unanswered = [f"{status[name]:,} {words}" for name, words in UNANSWERED_WORDS.items() if status[name]]
    calibration, fitted = "unknown", protocol.calibration
    if fitted:
        calibration = f"temperature {fitted.temperature:.4g}, exponent {fitted.exponent:.4g}"
    intervals = "{level:.0%}, percentiles of {num_resamples:,} resamples by {by}, seed {seed}"
    return report.facts(
        report.protocol_facts(protocol)
        | {
            "Without an answer": f"{', '.join(unanswered)}: {protocol.unanswered}" if unanswered else "none",
            "Labels": ", ".join(protocol.labels) + (f" (no image of {', '.join(absent)})" if absent else ""),
            "Preprocessing": protocol.preprocessing or "unknown",
            "Calibration": "none" if fitted == Calibration() else calibration,
            "Intervals": intervals.format(**boot) if boot else "none",
        }
    )


def _metrics(evaluation: "Evaluation") -> Block:
    head = "value [interval]" if evaluation.bootstrap else "value"
    rows = []
    for name, (title, meaning) in METRICS.items():
        form = number if name in NUMBERS else percent
        value = form(evaluation.metrics[name], evaluation.intervals.get(name))
        rows.append({"metric": title, head: value, "meaning": meaning})
    why = "A calibration error (ECE) has no interval: it is larger on resamples than on the images themselves."
    line = f"{evaluation.metrics['n']:,} images are scored."
    return Block("Metrics", (line,), rows, (why,) if evaluation.bootstrap else ())


def _confusion(evaluation: "Evaluation", scored: "Predictions") -> Markup:
    labels = list(evaluation.protocol.labels)
    counts, columns = np.array(evaluation.confusion), labels
    if not scored.answered_B.all():
        missing_C = np.bincount(scored.target_B[~scored.answered_B], minlength=len(labels))
        counts, columns = np.column_stack([counts, missing_C]), [*labels, "no answer"]
    caption = "Rows: true class; columns: predicted class. Share of the row's images, and their number."
    return report.heat_map(counts, labels, columns, caption=caption)


def _per_class(evaluation: "Evaluation") -> Block:
    rows = [
        {
            "class": label,
            "images": values["n"],
            "predicted": values["predicted"],
            **{title: percent(values[name], values["intervals"].get(name)) for name, title in CLASS_SCORES.items()},
            "AUROC": percent(values["auroc"]),
        }
        for label, values in evaluation.per_class.items()
    ]
    lines = ("How well each emotion is recognised.",)
    return Block("Per-class metrics", lines, rows, (PROSE["per_class"],), html=_bars(evaluation.per_class))


def _bars(per_class: Mapping[str, Mapping[str, Any]]) -> Markup:
    places, width = np.arange(len(per_class)), 0.26
    with report.new_figure(7.2, 2.8) as drawn:
        axes = drawn.subplots()
        for place, (name, title) in enumerate(CLASS_SCORES.items()):
            x = places + (place - 1) * width
            heights = np.nan_to_num([values[name] for values in per_class.values()])
            axes.bar(x, heights, width * 0.92, color=report.COLORS[place], label=title)
            for at, values in zip(x, per_class.values(), strict=True):
                if name in values["intervals"]:
                    axes.vlines(at, *values["intervals"][name], color="#1f2933", linewidth=0.9)
        axes.set_xticks(places, list(per_class))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.grid(visible=False, axis="x")
        axes.tick_params(length=0)
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        alt = "; ".join(f"{label}: recall {percent(values['recall'])}" for label, values in per_class.items())
        return report.figure(drawn, f"Recall, precision and F1 of each class. {alt}")


def _affect(evaluation: "Evaluation") -> Block:
    forms = {"ccc": ("CCC", number), "rmse": ("RMSE", number), "sign_agreement": ("sign agreement", percent)}
    rows = [
        {"": name, "images": found["n"]}
        | {title: form(found[score], found["intervals"].get(score)) for score, (title, form) in forms.items()}
        for name, found in evaluation.affect.items()
    ]
    about = "Regression metrics on the images that have both a label and an answer; both are from -1 to 1."
    return Block("Valence and arousal", (about,), rows, (PROSE["affect"],))


def _robustness(evaluation: "Evaluation") -> Block:
    rows = []
    for name, found in evaluation.robustness.items():
        row = {"degradation": name}
        for score in ("war", "uar"):
            loss = f"{score}_loss"
            row[score.upper()] = percent(found[score])
            row[f"{score.upper()} loss"] = report.points(found[loss], *found["intervals"][loss])
        rows.append(row)
    about = "The same faces, degraded before preprocessing. Losses are in points, against the faces as they are."
    return Block("Robustness", (about,), rows, (PROSE["robustness"],))


def _reliability(bins: "Reliability", scored: "Predictions") -> Markup:
    from scipy.stats import binomtest

    count_M, right_M = np.rint(bins.share * scored.answered_B.sum()), np.nan_to_num(bins.accuracy)
    centre_M, width = (bins.edges[1:] + bins.edges[:-1]) / 2, np.diff(bins.edges).mean() * 0.94
    with report.new_figure(height=4.2) as drawn:
        above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.bar(centre_M, right_M, width, color=report.COLORS[0], label="accuracy, 95 % interval")
        for x, right, count in zip(centre_M, right_M, count_M, strict=True):
            if count:
                interval = binomtest(round(right * count), int(count)).proportion_ci(method="wilson")
                above.vlines(x, interval.low, interval.high, color="#1f2933", linewidth=0.9)
        above.plot([0, 1], [0, 1], color=report.COLORS[1], linewidth=1.5, linestyle="--", label="perfect calibration")
        above.set(ylim=(0, 1), xlim=(0, 1), ylabel="accuracy")
        above.yaxis.set_major_formatter("{x:.0%}")
        above.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        bars = below.bar(centre_M, count_M, width, color=report.COLORS[2])
        below.bar_label(bars, [f"{count:.0f}" if count else "" for count in count_M], fontsize=6.5)
        below.set(xlabel="confidence: probability of the answer", ylabel="images")
        below.xaxis.set_major_formatter("{x:.0%}")
        below.margins(y=0.25)
        alt = "; ".join(
            f"{low:.0%} to {high:.0%}: {count:.0f} images, {accuracy:.0%} correct"
            for low, high, count, accuracy in zip(bins.edges[:-1], bins.edges[1:], count_M, bins.accuracy, strict=True)
            if count
        )
        caption = "Accuracy and number of images by confidence. Bars below the dashed line: the model is overconfident."
        return report.figure(drawn, f"Reliability diagram. {alt}", caption=caption)


def _mistakes(scored: "Predictions", *, with_thumbnails: bool) -> Block:
    wrong = np.flatnonzero(scored.answered_B & (scored.preds_B != scored.target_B))
    worst = wrong[np.argsort(-scored.probs_BC[wrong].max(axis=1), kind="stable")[:NUM_MISTAKES]].tolist()
    html, notes = report.table(_mistake(scored, position) for position in worst), ()
    if with_thumbnails and worst:
        html = report.thumbnails(_picture(scored, position) for position in worst)
        notes = (PROSE["thumbnails"],)
    lines = ("The images that were misclassified with the highest probability.",)
    return Block("Most confident mistakes", lines, notes=notes, html=html)


def _mistake(scored: "Predictions", position: int) -> dict[str, str]:
    names, source = scored.labels.names, scored.manifest.table
    return {
        "row": str(source["row"][position].as_py()),
        "file": source["path"][position].as_py() or NOTHING,
        "label": names[scored.target_B[position]],
        "predicted": names[scored.preds_B[position]],
        "probability": percent(scored.probs_BC[position].max()),
    }


def _picture(scored: "Predictions", position: int) -> Markup:
    row, path, label, predicted, probability = _mistake(scored, position).values()
    file = path.replace("\\", "/").rpartition("/")[2]
    caption = f"{predicted} {probability}\nlabel: {label}\nrow {row}" + (f"\n{file}" if file != NOTHING else "")
    try:
        (image,) = scored.manifest.read(position)
    except ImageError as error:
        # Answers of another tool may be about images that are not here.
        return report.thumbnail(np.full((1, 1, 3), 255, np.uint8), f"{caption}\n({error})")
    if position in scored.faces:
        image = crop(image, scored.faces[position], None)
    return report.thumbnail(image, caption)


def _groups(groups: list[dict[str, Any]]) -> Block:
    by_group: dict[str, list] = {}
    for row in groups:
        scores = {name.upper(): percent(row[name]) for name in ("war", "uar")}
        found = {"group": row["group"], "value": row["value"], "images": row["n"], **scores}
        by_group.setdefault(row["group"], []).append(found)
    more = [f"{len(rows) - MAX_VALUES} of {name}" for name, rows in by_group.items() if len(rows) > MAX_VALUES]
    notes = "Differences of small groups may be chance: `motivnet audit` gives intervals and tests."
    if more:
        notes += f" Not shown, but in metrics.json: {', '.join(more)}."
    about = "Accuracy and mean recall for each value of the data set's group columns."
    rows = [row for rows in by_group.values() for row in rows[:MAX_VALUES]]
    return Block("Metrics by group", (about,), rows, (notes,))
