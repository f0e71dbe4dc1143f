"""The page that says what an evaluation found: `motivnet evaluate` writes it as report.html.

Shape suffixes: B images, C classes, M bins.
"""

import math
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
from markupsafe import Markup

from motivnet.checkpoints.bundle import Calibration
from motivnet.errors import ImageError
from motivnet.evaluation.evaluate import CLASS_SCORES, METRICS, Evaluation
from motivnet.evaluation.predictions import UNANSWERED, Predictions
from motivnet.evaluation.probabilities import reliability
from motivnet.evaluation.resampling import Interval
from motivnet.images import decode_image
from motivnet.preprocess import crop
from motivnet.report.page import (
    COLORS,
    NOTHING,
    Section,
    facts,
    figure,
    heat_map,
    new_figure,
    percent,
    render,
    table,
    text,
    thumbnail,
    thumbnails,
)

NUM_MISTAKES = 24
# A column that tells every image apart is no group.
MAX_VALUES = 40
# Metric -> its name, and what it is in a line.
MEASURES: Mapping[str, tuple[str, str]] = {
    "war": ("WAR (accuracy)", "Share of images classified rightly; weighted average recall."),
    "uar": ("UAR", "Mean recall of the classes, each counting the same; balanced accuracy."),
    "top2": ("Top-2", "Share of images whose true class is among the two most probable."),
    "precision_macro": (
        "Precision, macro",
        "Mean over classes of the share of answers with that class that are right.",
    ),
    "precision_weighted": ("Precision, weighted", "The same, each class counting as often as it occurs."),
    "f1_macro": ("F1, macro", "Mean over classes of the harmonic mean of precision and recall."),
    "f1_weighted": ("F1, weighted", "The same, each class counting as often as it occurs."),
    "auroc_macro": (
        "AUROC, macro",
        "Mean over classes of the chance that an image of it is held more probable for it than one of another.",
    ),
    "log_loss": ("Log loss", "Mean negative logarithm of the true class's probability, in nats; 0 is best."),
    "brier": ("Brier score", "Mean squared distance of the probabilities from the truth; from 0, best, to 2."),
    "ece": ("ECE", "Mean gap between the probability of the answer and how often it is right; 0 is best."),
    "classwise_ece": ("ECE, classwise", "The same of every class's probability, averaged over classes; 0 is best."),
}
NO_FRACTIONS = ("log_loss", "brier")


def evaluation_report(evaluation: Evaluation, predictions: Predictions, *, with_thumbnails: bool = True) -> str:
    """Write the page.

    Args:
        evaluation: what `evaluate` found.
        predictions: what it found it in.
        with_thumbnails: embed small copies of the images; otherwise mistakes are named only.
    """
    protocol = evaluation.protocol
    scored = predictions
    if protocol.unanswered == UNANSWERED["leave-out"]:
        scored = predictions.select(predictions.answered_B)
    sections = [
        Section("What was measured", _protocol(evaluation)),
        Section("Scores", _scores(evaluation)),
        Section("What was taken for what", _confusion(evaluation, scored)),
        Section("Class by class", _classes(evaluation)),
    ]
    if evaluation.affect:
        sections.append(Section("Valence and arousal", _affect(evaluation)))
    if scored.has_probs and scored.answered_B.any():
        sections.append(Section("How far probabilities can be trusted", _reliability(scored)))
        sections.append(Section("Most confident mistakes", _mistakes(scored, with_thumbnails=with_thumbnails)))
    if evaluation.groups:
        sections.append(Section("Group by group", _groups(evaluation)))
    name = PurePath(protocol.data.partition(":")[2].partition("?")[0]).name or protocol.data
    return render(f"{protocol.model} on {name}{f', {protocol.split}' if protocol.split else ''}", sections)


def _protocol(evaluation: Evaluation) -> Markup:
    protocol, status = evaluation.protocol, evaluation.status
    absent = [label for label, values in evaluation.per_class.items() if not values["n"]]
    unanswered = [f"{status[name]:,} {words}" for name, words in _UNANSWERED_WORDS.items() if status[name]]
    dropped = [f"{number:,} ({reason})" for reason, number in protocol.dropped.items()]
    boot = evaluation.bootstrap
    return facts(
        {
            "Model": protocol.model,
            "Model fingerprint": protocol.model_fingerprint or "unknown",
            "Data": protocol.data,
            "Data fingerprint": protocol.data_fingerprint,
            "Split": protocol.split or "all rows",
            "Images": f"{protocol.n:,}",
            "Left out beforehand": ", ".join(dropped) or "nothing",
            "Without an answer": f"{', '.join(unanswered)}: {protocol.unanswered}" if unanswered else "none",
            "Labels": ", ".join(protocol.labels) + (f" (no image of {', '.join(absent)})" if absent else ""),
            "Face detection": protocol.detection,
            "Preprocessing": protocol.preprocessing or "unknown",
            "Calibration": _calibration(protocol.calibration),
            "Intervals": _INTERVALS.format(**boot) if boot else "none",
            "motivnet": protocol.version,
        }
    )


def _calibration(found: Calibration | None) -> str:
    if found is None:
        return "unknown"
    return f"temperature {found.temperature:.4g}, exponent {found.exponent:.4g}" if found != Calibration() else "none"


_INTERVALS = "{level:.0%}, percentiles of {num_resamples:,} resamples by {by}, seed {seed}"
_UNANSWERED_WORDS = {"no_face": "without a face that was found", "unreadable": "unreadable"}


def _scores(evaluation: Evaluation) -> Markup:
    head = "value [interval]" if evaluation.bootstrap else "value"
    rows = []
    for name in METRICS:
        title, meaning = MEASURES[name]
        value, interval = evaluation.metrics[name], evaluation.intervals.get(name)
        shown = _number(value, interval) if name in NO_FRACTIONS else percent(value, interval)
        rows.append({"measure": title, head: shown, "what it is": meaning})
    notes = text(f"{evaluation.metrics['n']:,.0f} images are scored.")
    if not evaluation.bootstrap:
        return notes + table(rows)
    why = "A calibration error (ECE) has no interval: it is larger on resamples than on the images themselves."
    return notes + table(rows) + text(why, note=True)


def _affect(evaluation: Evaluation) -> Markup:
    rows = []
    for name, found in evaluation.affect.items():
        intervals = found["intervals"]
        rows.append(
            {
                "": name,
                "images": found["n"],
                "CCC": _number(found["ccc"], intervals.get("ccc")),
                "RMSE": _number(found["rmse"], intervals.get("rmse")),
                "sign agreement": percent(found["sign_agreement"], intervals.get("sign_agreement")),
            }
        )
    return table(rows) + text(_AFFECT_NOTE, note=True)


_AFFECT_NOTE = (
    "Both are from -1 to 1. Only images that have a label and an answer are scored. CCC: concordance correlation "
    "coefficient (Lin 1989), 1 is best. RMSE: root of the mean squared error. Sign agreement: share of images whose "
    "predicted value has the sign of the label."
)


def _number(value: float, interval: Interval | None) -> str:
    if math.isnan(value):
        return NOTHING
    ends = f" [{interval.low:.3f}, {interval.high:.3f}]" if interval and not math.isnan(interval.low) else ""
    return f"{value:.3f}{ends}"


def _confusion(evaluation: Evaluation, scored: Predictions) -> Markup:
    labels = list(evaluation.protocol.labels)
    counts, columns = np.array(evaluation.confusion), list(labels)
    if not scored.answered_B.all():
        missing_C = np.bincount(scored.target_B[~scored.answered_B], minlength=len(labels))
        counts, columns = np.column_stack([counts, missing_C]), [*labels, "no answer"]
    caption = "Rows: the label; columns: the answer. Share of the row's images, and their number."
    return heat_map(counts, labels, columns, caption=caption)


def _classes(evaluation: Evaluation) -> Markup:
    rows = []
    for label, values in evaluation.per_class.items():
        scores = {
            name.replace("f1", "F1"): percent(values[name], values["intervals"].get(name)) for name in CLASS_SCORES
        }
        counts = {"class": label, "images": values["n"], "answers": values["predicted"]}
        rows.append(counts | scores | {"AUROC": percent(values["auroc"])})
    explained = text(
        "Recall: share of the class's images that were recognised. Precision: share of the answers with this class "
        "that are right. F1: their harmonic mean. AUROC: chance that an image of the class is held more probable for "
        "it than an image of another.",
        note=True,
    )
    return _bars(evaluation) + table(rows) + explained


def _bars(evaluation: Evaluation) -> Markup:
    labels = list(evaluation.per_class)
    places, width = np.arange(len(labels)), 0.26
    with new_figure(7.2, 2.8) as drawn:
        axes = drawn.subplots()
        for number, name in enumerate(CLASS_SCORES):
            heights = np.array([evaluation.per_class[label][name] for label in labels])
            intervals = [evaluation.per_class[label]["intervals"].get(name) for label in labels]
            x = places + (number - 1) * width
            axes.bar(x, np.nan_to_num(heights), width * 0.92, color=COLORS[number], label=name.replace("f1", "F1"))
            known = [(at, *interval) for at, interval in zip(x, intervals, strict=True) if interval]
            if known:
                at, low, high = np.array(known).T
                axes.vlines(at, low, high, color="#1f2933", linewidth=0.9)
        axes.set_xticks(places, labels)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(_percent_tick)
        axes.grid(visible=False, axis="x")
        axes.tick_params(length=0)
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        alt = "; ".join(f"{label}: recall {percent(evaluation.per_class[label]['recall'])}" for label in labels)
        return figure(drawn, f"Recall, precision and F1 of each class. {alt}")


def _percent_tick(value: float, _position: float) -> str:
    return f"{100 * value:.0f} %"


def _reliability(scored: Predictions) -> Markup:
    answered_B = scored.answered_B
    bins = reliability(scored.probs_BC[answered_B], scored.target_B[answered_B])
    count_M = np.rint(bins.share * answered_B.sum())
    centre_M, width = (bins.edges[1:] + bins.edges[:-1]) / 2, np.diff(bins.edges).mean()
    right_M = np.nan_to_num(bins.accuracy)
    with new_figure(height=4.2) as drawn:
        above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.bar(centre_M, right_M, width * 0.94, color=COLORS[0], label="right answers, 95 % interval")
        above.vlines(centre_M, *_wilson(right_M, count_M), color="#1f2933", linewidth=0.9)
        above.plot([0, 1], [0, 1], color=COLORS[1], linewidth=1.5, linestyle="--", label="as often right as said")
        above.set(ylim=(0, 1), xlim=(0, 1), ylabel="share right")
        above.yaxis.set_major_formatter(_percent_tick)
        above.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        below.bar(centre_M, count_M, width * 0.94, color=COLORS[2])
        for x, count in zip(centre_M, count_M, strict=True):
            if count:
                below.annotate(f"{count:.0f}", (x, count), ha="center", va="bottom", fontsize=6.5)
        below.set(xlabel="probability of the answer", ylabel="images")
        below.xaxis.set_major_formatter(_percent_tick)
        below.margins(y=0.25)
        told = "; ".join(
            f"{low:.0%} to {high:.0%}: {count:.0f} images, {accuracy:.0%} right"
            for low, high, count, accuracy in zip(bins.edges[:-1], bins.edges[1:], count_M, bins.accuracy, strict=True)
            if count
        )
        caption = (
            "Images by the probability of their answer: how many there are, and how often the answer is right. Bars "
            "below the dashed line mean answers that are surer than they should be."
        )
        return figure(drawn, f"Reliability diagram. {told}", caption=caption)


def _wilson(share_M: np.ndarray, count_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the limits of Wilson's 95 % interval of shares of so many images (JASA 1927); 0 and 0 of none."""
    z2 = 1.96**2
    whole_M = np.maximum(count_M, 1)
    centre_M = (share_M + z2 / (2 * whole_M)) / (1 + z2 / whole_M)
    half_M = np.sqrt(z2 * (share_M * (1 - share_M) + z2 / (4 * whole_M)) / whole_M) / (1 + z2 / whole_M)
    return np.where(count_M, centre_M - half_M, 0), np.where(count_M, centre_M + half_M, 0)


def _mistakes(scored: Predictions, *, with_thumbnails: bool) -> Markup:
    wrong = np.flatnonzero(scored.answered_B & (scored.preds_B != scored.target_B))
    prob = scored.probs_BC[wrong].max(axis=1)
    worst = wrong[np.argsort(-prob, kind="stable")[:NUM_MISTAKES]]
    if not with_thumbnails or not len(worst):
        return table([_mistake(scored, position) for position in worst.tolist()])
    notice = (
        "These are images of the data set: this page may be passed on only where its terms allow that. The switch "
        "--no-thumbnails leaves them out."
    )
    return thumbnails(_picture(scored, position) for position in worst.tolist()) + text(notice, note=True)


def _mistake(scored: Predictions, position: int) -> dict[str, object]:
    names, source = scored.labels.names, scored.manifest.table
    return {
        "row": str(source["row"][position].as_py()),
        "file": source["path"][position].as_py() or NOTHING,
        "label": names[scored.target_B[position]],
        "answer": names[scored.preds_B[position]],
        "probability": percent(scored.probs_BC[position].max()),
    }


def _picture(scored: Predictions, position: int) -> Markup:
    mistake = _mistake(scored, position)
    file = str(mistake["file"]).replace("\\", "/").rpartition("/")[2]
    caption = f"{mistake['answer']} {mistake['probability']}\nlabel: {mistake['label']}\nrow {mistake['row']}"
    if file != NOTHING:
        caption += f"\n{file}"
    try:
        image = decode_image(scored.manifest.source(position))
    except ImageError as error:
        # Answers of another tool may be about images that are not here.
        return thumbnail(np.full((1, 1, 3), 255, np.uint8), f"{caption}\n({error})")
    if position in scored.faces:
        image = crop(image, scored.faces[position], None)
    return thumbnail(image, caption)


def _groups(evaluation: Evaluation) -> Markup:
    by_group: dict[str, list] = {}
    for row in evaluation.groups:
        by_group.setdefault(row["group"], []).append(row)
    shown = [
        {
            "group": row["group"],
            "value": row["value"],
            "images": row["n"],
            "WAR": percent(row["war"]),
            "UAR": percent(row["uar"]),
        }
        for rows in by_group.values()
        for row in rows[:MAX_VALUES]
    ]
    more = [f"{len(rows) - MAX_VALUES} of {name}" for name, rows in by_group.items() if len(rows) > MAX_VALUES]
    notes = "Differences of small groups may be chance: `motivnet audit` gives intervals and tests."
    if more:
        notes += f" Not shown, but in metrics.json: {', '.join(more)}."
    return table(shown) + text(notes, note=True)
