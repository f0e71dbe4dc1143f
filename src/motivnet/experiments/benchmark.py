"""Many models on many data sets: whatever can be measured is, and the rest is listed with the reason.

Predictions are kept in `OUT/predictions/`, under a name derived from everything that they depend on: so a benchmark
that was stopped continues where it was, and another one with the same models or data reuses what is there.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motivnet.checkpoints.bundle import model_fingerprint
from motivnet.config import to_json, to_plain
from motivnet.data.manifest import Manifest
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, DataError, MotivNetError, OutputError, require, unknown_name
from motivnet.evaluation.evaluate import without_nan
from motivnet.evaluation.external_predictions import read_predictions
from motivnet.evaluation.predictions import Predictions, Track, no_progress, predict_manifest
from motivnet.evaluation.resampling import bootstrap, holm
from motivnet.experiments import protocols
from motivnet.experiments.comparison import Answers, Comparison, Entry, compare
from motivnet.experiments.leaderboard import Mean, Published, means_of, published_on, ranked, read_published
from motivnet.experiments.protocols import BenchmarkSettings, DataName, Setting, domain
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.tables import check_folder
from motivnet.report import benchmark_report
from motivnet.storage import atomic_folder, atomic_path
from motivnet.version import __version__

# Errors of one model or one data set that must not stop the others. RuntimeError: of libraries that run models.
FAILURES = (MotivNetError, OSError, RuntimeError, MemoryError)
ALL = "all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A model, a data set or a pair of them that was not measured; None stands for all."""

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
        trained_on: domains; None if neither it nor the user says so.
    """

    name: str
    given: str
    fingerprint: str
    labels: tuple[str, ...]
    trained_on: tuple[str, ...] | None

    @property
    def training_data(self) -> str:
        """Usual names of the data sets that it was trained on, as text."""
        if self.trained_on is None:
            return "not stated"
        return ", ".join(protocols.NAMES.get(name, name) for name in self.trained_on) or "none of the data sets"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """The results of a benchmark.

    Args:
        settings: as given, and the version.
        models: that could be loaded.
        data: title -> name, source, split, n, fingerprint, labels (label -> images), subjects, dropped, detect.
        cells: the entries, model by model on data set by data set.
        means: over data sets.
        comparisons: of models in one setting on one data set.
        published: title -> what others have published on this data set.
        plan: (data sets to train on, data set to test on), leaving out one at a time.
        skipped: what was not measured, and why.
    """

    settings: dict[str, Any]
    models: tuple[ModelInfo, ...]
    data: dict[str, dict[str, Any]]
    cells: tuple[Entry, ...]
    means: tuple[Mean, ...]
    comparisons: tuple[Comparison, ...]
    published: dict[str, list[Published]]
    plan: tuple[tuple[tuple[str, ...], str], ...]
    skipped: tuple[Skipped, ...]

    def trained_on(self, data_sets: Iterable[str]) -> list[str]:
        """Return the names of the models that were trained on exactly these data sets."""
        wanted = {domain(name) for name in data_sets}
        return [model.name for model in self.models if set(model.trained_on or ()) == wanted]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; NaN becomes None."""
        return without_nan(to_plain(self))


def run_benchmark(
    models: Sequence[str],
    data: Sequence[str],
    out: Path,
    settings: BenchmarkSettings | None = None,
    *,
    config: PredictorConfig | None = None,
    overwrite: bool = False,
    say: Callable[[str], object] = lambda line: None,
    track: Track = no_progress,
) -> Benchmark:
    """Score every model on every data set, and write benchmark.md, benchmark.html and benchmark.json.

    Args:
        models: as `Predictor.load` takes them.
        data: as `parse_data` takes them.
        out: folder of the report and the predictions.
        settings: None takes the defaults.
        config: options of the predictors; its detector is used where `settings.detect` names a data set.
        overwrite: replace a report that is there.
        say: receives progress messages.
        track: shows progress.

    Raises:
        ConfigError: if two data sets have the same title, or a setting names an unknown model or data set.
        OutputError: if the report exists, or files cannot be written.
    """
    settings = settings or BenchmarkSettings()
    names, published = _check(models, data, settings), read_published()
    check_folder(out, benchmark_report.FILES, overwrite=overwrite)
    run = _Run(out / "predictions", settings, config or PredictorConfig(), say, track)
    sets = run.read(names)
    for model in dict.fromkeys(models):
        run.score(model, sets)
    entries = ranked(run.entries)
    num_labels = {title: {len(entry.labels) for entry in entries if entry.data == title} for title in sets}
    found = Benchmark(
        settings=to_plain(settings) | {"version": __version__},
        models=tuple(run.models),
        data={title: _describe(*each) for title, each in sets.items()},
        cells=tuple(entries),
        means=tuple(means_of(entries, {title: domain(name.name) for title, (name, *_) in sets.items()})),
        comparisons=tuple(run.compare(sets)),
        published={title: published_on(published, name.name, num_labels[title]) for title, (name, *_) in sets.items()},
        plan=tuple(protocols.leave_one_out(name.name for name, *_ in sets.values())),
        skipped=tuple(run.skipped),
    )
    with atomic_folder(out, merge=True, last=benchmark_report.FILES[-1]) as folder:
        for file, text in benchmark_report.benchmark_files(found).items():
            (folder / file).write_text(text, encoding="utf-8")
    return found


def _check(models: Sequence[str], data: Sequence[str], settings: BenchmarkSettings) -> list[DataName]:
    names = [protocols.parse_data(text) for text in data]
    titles = [each.title for each in names]
    twice = [title for title in titles if titles.count(title) > 1]
    if twice:
        raise ConfigError(f"data set {twice[0]!r} is named twice. Allowed: NAME=KIND:PATH, with another name")
    for kind, given, known in (
        ("data set", settings.detect, {ALL, *titles, *(each.name for each in names)}),
        ("model", settings.trained_on, models),
    ):
        for name in given:
            require(name in known, unknown_name(kind, name, known))
    return names


# A data set that could be read: its name, its images, and whether to detect faces.
DataSet = tuple[DataName, Manifest, bool]


def _describe(name: DataName, manifest: Manifest, detect: bool) -> dict[str, Any]:
    labels = manifest.table["label"].to_pylist()
    return {
        **to_plain(name),
        "n": len(manifest),
        "fingerprint": manifest.fingerprint(),
        "labels": {label: labels.count(label) for label in manifest.labels if label in labels},
        "subjects": len(set(manifest.table["subject"].to_pylist()) - {None}) or None,
        "dropped": dict(manifest.dropped),
        "detect": detect,
    }


@dataclasses.dataclass
class _Run:
    """The state of a benchmark."""

    folder: Path
    settings: BenchmarkSettings
    config: PredictorConfig
    say: Callable[[str], object]
    track: Track
    models: list[ModelInfo] = dataclasses.field(default_factory=list)
    entries: list[Entry] = dataclasses.field(default_factory=list)
    answers: dict[tuple[str, str], Answers] = dataclasses.field(default_factory=dict)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)

    def skip(self, model: str | None, data: str | None, error: BaseException) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        self.skipped.append(Skipped(model=model, data=data, reason=reason))
        self.say(f"skipped {model or 'every model'} on {data or 'every data set'}: {reason}")

    def read(self, names: Iterable[DataName]) -> dict[str, DataSet]:
        """Read the data sets that can be read, by title."""
        sets: dict[str, DataSet] = {}
        for name in names:
            try:
                manifest = read_source(name.source)
                manifest = manifest.split(name.split) if name.split else manifest
                require(len(manifest), f"{name.source}: no images", DataError)
            except FAILURES as error:
                self.skip(None, name.title, error)
                continue
            sets[name.title] = name, manifest, bool({ALL, name.name, name.title} & set(self.settings.detect))
            self.say(f"{name.title}: {len(manifest):,} images")
        return sets

    def score(self, model: str, sets: dict[str, DataSet]) -> None:
        """Score one model on all data sets; it is the only one in memory."""
        try:
            fingerprint = model_fingerprint(model, self.config.precision)
            detector = self.config.detector if self.settings.detect else "whole"
            predictor = Predictor.load(model, self.config, detector=detector)
            info = self._describe(model, fingerprint, predictor)
        except FAILURES as error:
            self.skip(model, None, error)
            return
        self.models.append(info)
        for title, each in sets.items():
            try:
                self._score(info, predictor, *each)
            except OutputError:
                raise  # what follows could not be kept either
            except FAILURES as error:
                self.skip(info.name, title, error)

    def _describe(self, model: str, fingerprint: str, predictor: Predictor) -> ModelInfo:
        name, trained_on = predictor.config.name, protocols.training_domains(predictor.config.provenance)
        for other in self.models:
            require(other.fingerprint != fingerprint, f"the same weights and settings as {other.given}")
        if name in [other.name for other in self.models]:
            name = f"{name} ({fingerprint})"
        if model in self.settings.trained_on:
            trained_on = frozenset(map(domain, self.settings.trained_on[model]))
        return ModelInfo(
            name=name,
            given=model,
            fingerprint=fingerprint,
            labels=predictor.config.labels.names,
            trained_on=None if trained_on is None else tuple(sorted(trained_on)),
        )

    def _score(self, info: ModelInfo, predictor: Predictor, name: DataName, manifest: Manifest, detect: bool) -> None:
        predictions, reused = self._predict(info, predictor, name, manifest.restrict(predictor.config.labels), detect)
        positions = np.flatnonzero(np.isin(manifest.table["label"].to_pylist(), info.labels))
        answers = Answers(predictions, positions, restrict=self.settings.restrict)
        setting, settings = protocols.setting_of(info.trained_on, name.name), self.settings
        own = setting == Setting.OWN_DOMAIN
        entry = Entry(
            model=info.name,
            data=name.title,
            setting=setting,
            n=len(answers),
            unanswered=int((~predictions.answered_B).sum()),
            labels=answers.labels,
            absent=answers.absent,
            restrict=settings.restrict,
            scores=answers.scores(),
            intervals=bootstrap(answers.scores, answers.units, **settings.resampling),
            by_subject=answers.by_subject,
            folds=answers.over_folds(settings.num_folds),
            caution=protocols.caution(predictor.config.provenance, name.split) if own else None,
            protocol=predictions.protocol,
        )
        self.entries.append(entry)
        self.answers[info.name, name.title] = answers
        again = ", predictions reused" if reused else ""
        self.say(f"{info.name} on {name.title}: WAR {entry.scores['war']:.3f}, UAR {entry.scores['uar']:.3f}{again}")

    def _predict(
        self, info: ModelInfo, predictor: Predictor, name: DataName, manifest: Manifest, detect: bool
    ) -> tuple[Predictions, bool]:
        """Read predictions that are there, or make and keep them; also return whether they were there."""
        options = predictor.options
        detection = [predictor.detector.name, options.min_score, options.min_face, options.long_side]
        depends_on = {
            "model": info.fingerprint,
            "data": manifest.fingerprint(),
            "detection": detection if detect else None,
            "calibration": to_plain(predictor.config.calibration),
            "version": __version__,
        }
        key = hashlib.sha256(to_json(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{key}.parquet"
        if path.is_file():
            try:
                return read_predictions(path, manifest, data=name.source, split=name.split), True
            except DataError as error:
                self.say(f"{path}: predicted again: {error}")
        predictions = predict_manifest(
            predictor,
            manifest,
            detect=detect,
            data=name.source,
            split=name.split,
            model_fingerprint=info.fingerprint,
            track=self.track,
            what=f"{info.name} on {name.title}",
        )
        with atomic_path(path, parents=True) as temporary:
            predictions.write(temporary)
        return predictions, False

    def compare(self, titles: Iterable[str]) -> list[Comparison]:
        """Compare models in one setting, pair by pair; p-values are corrected for all pairs on all data sets."""
        found = []
        for title, setting in itertools.product(titles, Setting):
            names = [entry.model for entry in self.entries if (entry.data, entry.setting) == (title, setting)]
            for pair in itertools.combinations(names, 2):
                a, b = (self.answers[name, title] for name in pair)
                found.append(compare(pair, a, b, data=title, setting=setting, settings=self.settings))
        found = [each for each in found if each]
        corrected = iter(holm([each.p_value for each in found if each.p_value is not None]).tolist())
        return [each if each.p_value is None else dataclasses.replace(each, p_holm=next(corrected)) for each in found]
