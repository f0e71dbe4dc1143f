"""Many models on many data sets: what can be measured is, and what cannot is listed with the reason.

Predictions are kept in `FOLDER/predictions/`, under a name that says what they depend on: so a benchmark that was
stopped goes on where it was, and one of other models or data uses what is known already.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.checkpoints.fingerprint import model_fingerprint
from motivnet.config import to_plain
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, DataError, MotivNetError, OutputError, unknown_name
from motivnet.evaluation.evaluate import Track, predict_manifest
from motivnet.evaluation.predictions import Predictions, read_predictions
from motivnet.evaluation.resampling import holm
from motivnet.experiments.comparison import Answers, Cell, Comparison, Restrict, compare, score_cell
from motivnet.experiments.data_sets import DataName, DataSet, about, parse_data
from motivnet.experiments.leaderboard import Mean, means_of, ranks
from motivnet.experiments.protocols import Setting, caution, domain, leave_one_out, setting_of, training_domains
from motivnet.experiments.published import Published, published_on, read_published
from motivnet.inference.predictor import Predictor
from motivnet.version import __version__

# What can go wrong with one model or one data set, and must not take the others along. RuntimeError: of the libraries
# that run models.
FAILURES = (MotivNetError, OSError, RuntimeError, MemoryError)
ALL = "all"

Load = Callable[[str], Predictor]
Say = Callable[[str], object]
Tracker = Callable[[str, int], Track]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """What was not measured.

    Args:
        model: its name; None for all of them.
        data: title of the data set; None for all of them.
        reason: as the error says it.
    """

    model: str | None
    data: str | None
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model that could be loaded.

    Args:
        name: its own, made unique.
        given: as the user named it.
        fingerprint: of weights and settings.
        labels: its classes.
        trained_on: domains; None if neither it nor the user tells.
    """

    name: str
    given: str
    fingerprint: str
    labels: tuple[str, ...]
    trained_on: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """All that was measured.

    Args:
        settings: restrict, detect, num_resamples, num_folds, seed and version.
        models: that could be loaded.
        data: title -> name, source, split, n, fingerprint, labels (label -> images), subjects, detect.
        cells: model by model on data set by data set.
        means: over data sets.
        comparisons: of models of one setting on one data set.
        published: title -> what others have published on this data set.
        plan: (data sets to train on, data set to test on), leaving out one at a time.
        skipped: what was not measured, and why.
    """

    settings: dict[str, Any]
    models: tuple[ModelInfo, ...]
    data: dict[str, dict[str, Any]]
    cells: tuple[Cell, ...]
    means: tuple[Mean, ...]
    comparisons: tuple[Comparison, ...]
    published: dict[str, list[Published]]
    plan: tuple[tuple[tuple[str, ...], str], ...]
    skipped: tuple[Skipped, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON; what does not exist is None."""
        return _finite(to_plain(self))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a benchmark is run.

    Args:
        trained_on: model as the user named it -> names of the data sets that it was trained on, for models whose
            provenance does not tell, or tells it wrongly.
        detect: names or titles of data sets whose images are photographs in which faces have to be found; `all`: of
            every one. The images of the others are crops, or have boxes.
        restrict: what becomes of probabilities of labels that a data set has no image of; see `cells`.
        num_folds: for data sets with subjects, at most; 0 leaves out one subject at a time.
        num_resamples: for the intervals.
        seed: of the resamples.
    """

    trained_on: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    detect: Collection[str] = ()
    restrict: Restrict = "keep"
    num_folds: int = 10
    num_resamples: int = 1000
    seed: int = 0


def run_benchmark(
    models: Sequence[str],
    data: Sequence[str],
    folder: Path,
    options: Options | None = None,
    *,
    load: Load | None = None,
    say: Say = lambda line: None,
    track: Tracker = lambda title, total: iter,
) -> Benchmark:
    """Score every model on every data set.

    Args:
        models: as `Predictor.load` takes them.
        data: as `parse_data` takes them.
        folder: where predictions are kept.
        options: how to run it.
        load: gives the predictor of a model, with a face detector if one is needed; None: `Predictor.load`.
        say: told of each step, and of what is skipped.
        track: given the title of a cell and its number of images, gives what its results go through,
            such as a progress bar.

    Raises:
        ConfigError: if two data sets have one title, or an option names a model or data set that is not there.
        OutputError: if predictions cannot be kept.
    """
    options = options or Options()
    names, results = _check(models, data, options), read_published()
    run = _Run(folder, options, load or _loader(options), say, track)
    sets = run.read(names)
    for model in dict.fromkeys(models):
        run.score(model, sets)
    comparisons = run.compare(sets)
    cells = [dataclasses.replace(cell, rank=rank) for cell, rank in zip(run.cells, ranks(run.cells), strict=True)]
    return Benchmark(
        settings={
            "restrict": options.restrict,
            "detect": sorted(options.detect),
            "num_resamples": options.num_resamples,
            "num_folds": options.num_folds,
            "seed": options.seed,
            "version": __version__,
        },
        models=tuple(run.models),
        data={each.named.title: about(each) for each in sets},
        cells=tuple(cells),
        means=tuple(means_of(cells, {each.named.title: domain(each.named.name) for each in sets})),
        comparisons=tuple(comparisons),
        published={
            each.named.title: published_on(
                results, each.named.name, {len(cell.labels) for cell in cells if cell.data == each.named.title}
            )
            for each in sets
        },
        plan=tuple(leave_one_out(each.named.name for each in sets)),
        skipped=tuple(run.skipped),
    )


def _check(models: Sequence[str], data: Sequence[str], options: Options) -> list[DataName]:
    names = [parse_data(text) for text in data]
    titles = [each.title for each in names]
    twice = [title for title in titles if titles.count(title) > 1]
    if twice:
        raise ConfigError(f"data set {twice[0]!r} is named twice. Allowed: NAME=KIND:PATH, with another name")
    known = {ALL, *titles, *(each.name for each in names)}
    for name in options.detect:
        if name not in known:
            raise ConfigError(unknown_name("data set", name, known))
    for model in options.trained_on:
        if model not in models:
            raise ConfigError(unknown_name("model", model, models))
    return names


def _loader(options: Options) -> Load:
    detector = "libfacedetection" if options.detect else "whole"
    return lambda model: Predictor.load(model, detector=detector)


class _Run:
    """What has been found so far."""

    def __init__(self, folder: Path, options: Options, load: Load, say: Say, track: Tracker) -> None:
        self.folder = folder / "predictions"
        self.options = options
        self.load, self.say, self.track = load, say, track
        self.models: list[ModelInfo] = []
        self.cells: list[Cell] = []
        self.answers: dict[tuple[str, str], Answers] = {}
        self.skipped: list[Skipped] = []

    def skip(self, model: str | None, data: str | None, error: BaseException) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        self.skipped.append(Skipped(model=model, data=data, reason=reason))
        self.say(f"skipped {model or 'every model'} on {data or 'every data set'}: {reason}")

    def read(self, names: Iterable[DataName]) -> list[DataSet]:
        """Read what can be read."""
        sets = []
        for named in names:
            try:
                manifest = read_source(named.source)
                manifest = manifest.split(named.split) if named.split else manifest
                if not len(manifest):
                    raise DataError(f"{named.source}: no images")
            except FAILURES as error:
                self.skip(None, named.title, error)
                continue
            detect = bool({ALL, named.name, named.title} & set(self.options.detect))
            sets.append(DataSet(named=named, manifest=manifest, detect=detect))
            self.say(f"{named.title}: {len(manifest):,} images")
        return sets

    def score(self, model: str, sets: Sequence[DataSet]) -> None:
        """Score one model on all data sets; it is the only one in memory."""
        try:
            fingerprint = model_fingerprint(model)
            predictor = self.load(model)
            info = self._info(model, fingerprint, predictor)
        except FAILURES as error:
            self.skip(model, None, error)
            return
        self.models.append(info)
        for each in sets:
            try:
                self._score(info, predictor, each)
            except OutputError:
                # Nothing that follows could be kept either.
                raise
            except FAILURES as error:
                self.skip(info.name, each.named.title, error)

    def _info(self, model: str, fingerprint: str, predictor: Predictor) -> ModelInfo:
        name = predictor.config.name
        for other in self.models:
            if other.fingerprint == fingerprint:
                raise ConfigError(f"the same weights and settings as {other.given}")
        if any(other.name == name for other in self.models):
            name = f"{name} ({fingerprint})"
        if model in self.options.trained_on:
            trained_on = frozenset(map(domain, self.options.trained_on[model]))
        else:
            trained_on = training_domains(predictor.config.provenance)
        return ModelInfo(
            name=name,
            given=model,
            fingerprint=fingerprint,
            labels=predictor.config.labels.names,
            trained_on=None if trained_on is None else tuple(sorted(trained_on)),
        )

    def _score(self, info: ModelInfo, predictor: Predictor, each: DataSet) -> None:
        options, title = self.options, each.named.title
        trained_on = None if info.trained_on is None else frozenset(info.trained_on)
        labels = each.manifest.table["label"].to_pylist()
        positions = np.flatnonzero(np.isin(labels, info.labels))
        predictions, reused = self._predictions(info, predictor, each)
        answers = Answers(predictions, positions, restrict=options.restrict)
        setting = setting_of(trained_on, each.named.name)
        cell = score_cell(
            predictions,
            answers,
            model=info.name,
            data=title,
            setting=setting,
            restrict=options.restrict,
            num_resamples=options.num_resamples,
            num_folds=options.num_folds,
            seed=options.seed,
        )
        if setting == Setting.OWN_DOMAIN:
            found = caution(predictor.config.provenance, each.named.split)
            cell = dataclasses.replace(cell, caution=found)
        self.cells.append(cell)
        self.answers[info.name, title] = answers
        again = ", predictions re-used" if reused else ""
        self.say(f"{info.name} on {title}: WAR {cell.scores['war']:.3f}, UAR {cell.scores['uar']:.3f}{again}")

    def _predictions(self, info: ModelInfo, predictor: Predictor, each: DataSet) -> tuple[Predictions, bool]:
        """Take the predictions of before, or make and keep them."""
        named, manifest = each.named, each.manifest.restrict(predictor.config.labels)
        depends_on = {
            "model": info.fingerprint,
            "data": manifest.fingerprint(),
            "detection": predictor.detector.name if each.detect else None,
            "calibration": to_plain(predictor.config.calibration),
            "version": __version__,
        }
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{key}.parquet"
        if path.is_file():
            try:
                return read_predictions(path, manifest, data=named.source, split=named.split), True
            except DataError as error:
                self.say(f"{path}: predicted anew: {error}")
        predictions = predict_manifest(
            predictor,
            manifest,
            detect=each.detect,
            data=named.source,
            split=named.split,
            model_fingerprint=info.fingerprint,
            track=self.track(f"{info.name} on {named.title}", len(manifest)),
        )
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            predictions.write(unfinished)
            unfinished.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
        finally:
            # The folder may be one that nothing can be removed from, because nothing could be written to it.
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
        return predictions, False

    def compare(self, sets: Sequence[DataSet]) -> list[Comparison]:
        """Compare models of one setting, pair by pair; p-values are corrected for all pairs on all data sets."""
        found = []
        for title, setting in itertools.product([each.named.title for each in sets], Setting):
            names = [cell.model for cell in self.cells if (cell.data, cell.setting) == (title, setting)]
            for a, b in itertools.combinations(names, 2):
                comparison = compare(
                    (a, b),
                    self.answers[a, title],
                    self.answers[b, title],
                    data=title,
                    setting=setting,
                    num_resamples=self.options.num_resamples,
                    seed=self.options.seed,
                )
                found += [comparison] if comparison else []
        corrected = iter(holm([each.p_value for each in found if each.p_value is not None]))
        return [
            each if each.p_value is None else dataclasses.replace(each, p_holm=float(next(corrected))) for each in found
        ]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
