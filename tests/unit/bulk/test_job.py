import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")
from pyarrow import parquet  # noqa: E402

from motivnet.bulk import job as bulk  # noqa: E402
from motivnet.bulk.job import Progress, run_bulk  # noqa: E402
from motivnet.bulk.parts import PartWriter  # noqa: E402
from motivnet.errors import ConfigError, DataError, DetectorError, OutputError  # noqa: E402
from motivnet.inference.predictor import Predictor  # noqa: E402
from motivnet.inference.rows import all_columns  # noqa: E402
from motivnet.storage import temporary_name  # noqa: E402


@pytest.fixture
def images(photographs: Path) -> Path:
    """Seven images, of which one is broken and one empty; with parts of two: four parts."""
    for number in range(2):
        shutil.copy(photographs / "astronaut.png", photographs / f"more_{number}.png")
    (photographs / "poison.jpg").write_bytes(b"\xff\xd8\xff" + bytes(100))
    (photographs / "void.png").write_bytes(b"")
    return photographs


@pytest.fixture
def settings(tiny_bundle) -> dict[str, Any]:
    return {"model": str(tiny_bundle.path), "part_size": 2}


@pytest.fixture
def in_process(monkeypatch) -> list[int]:
    """Work in this process, which saves seconds; give the list of the parts that are begun."""
    begun: list[int] = []

    class Here:
        def __init__(self, *arguments):
            self._of = arguments
            self._writer = None

        def write(self, part):
            begun.append(part.number)
            self._writer = self._writer or PartWriter(*self._of)
            return self._writer.write(part)

        def close(self):
            pass

    monkeypatch.setattr(bulk, "Worker", Here)
    return begun


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(path).to_pylist()]


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_every_input_has_a_result_and_every_face_a_row(images, settings, tmp_path):
    seen: list[Progress] = []
    summary = run_bulk(str(images), tmp_path / "out", **settings, progress=seen.append)
    rows = rows_of(tmp_path / "out")
    assert [(row["input"], Path(row["source"]).name, row["status"]) for row in rows] == [
        (0, "astronaut.png", "ok"),
        (1, "HOPPER.JPG", "ok"),
        (2, "more_0.png", "ok"),
        (3, "more_1.png", "ok"),
        (4, "no_face.png", "no_face"),
        (5, "poison.jpg", "unreadable"),
        (6, "void.png", "unreadable"),
    ]
    assert rows[6]["error"] == "the file is empty"
    assert [(at.inputs, at.held, at.done) for at in seen] == [(7, 0, 0), (7, 0, 2), (7, 0, 4), (7, 0, 6), (7, 0, 7)]
    assert (seen[0].images_per_s, seen[0].seconds_left, seen[-1].seconds_left) == (None, None, 0)
    assert (summary.inputs, summary.faces, summary.parts, summary.parts_done) == (7, 4, 4, 4)
    assert summary.statuses == {"no_face": 1, "ok": 4, "unreadable": 2}
    written = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert written["failures"] == {"unreadable": 2}
    assert written["images_per_s"] > 0
    (plain,) = Predictor.load(settings["model"]).predict(images / "astronaut.png")
    assert {name: rows[0][f"prob_{name}"] for name in plain.faces[0].probs} == pytest.approx(plain.faces[0].probs)


@pytest.mark.usefixtures("in_process")
def test_landmarks_are_columns_of_every_part_and_another_run(images, settings, tmp_path, in_process):
    run_bulk(images, tmp_path / "out", **settings, landmarks=True)
    columns = list(all_columns(Predictor.load(settings["model"]).config.labels, landmarks=True))
    for path in (tmp_path / "out").glob("part-*.parquet"):
        assert parquet.read_schema(path).names == [*columns, "input"]
    assert any(row["nose_x"] is not None for row in rows_of(tmp_path / "out"))
    with pytest.raises(OutputError, match="landmarks"):
        run_bulk(images, tmp_path / "out", **settings)


def test_parts_of_another_size_hold_the_same_rows(images, settings, tmp_path, tiny_bundle):
    run_bulk(str(images), tmp_path / "two", **settings)
    run_bulk(str(images), tmp_path / "five", model=tiny_bundle.path, part_size=5)
    assert len(list((tmp_path / "five").glob("part-*"))) == 2
    assert rows_of(tmp_path / "five") == rows_of(tmp_path / "two")


def test_an_interrupted_run_goes_on_and_gives_the_same_files(images, settings, tmp_path, in_process):
    run_bulk(str(images), tmp_path / "whole", **settings)

    def stop(progress: Progress) -> None:
        if progress.done == 4:
            # What the worker leaves that is killed while it writes.
            (out / temporary_name("part-00002.parquet")).write_bytes(b"half")
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_bulk(str(images), out, **settings, progress=stop)
    assert sorted(path.name for path in out.iterdir()) == ["_plan.json", "part-00000.parquet", "part-00001.parquet"]
    # What kill -9 leaves in the middle of a part, a part that was lost, and one that the disk has damaged.
    (out / temporary_name("part-00002.parquet")).write_bytes(b"half")
    (out / "part-00000.parquet").unlink()
    (out / "part-00001.parquet").write_bytes(b"PAR1")
    in_process.clear()
    summary = run_bulk(str(images), out, **settings)
    assert in_process == [0, 1, 2, 3]
    assert (summary.inputs, summary.parts, summary.parts_done) == (7, 4, 4)
    (out / "part-00003.parquet").unlink()
    in_process.clear()
    assert run_bulk(str(images), out, **settings).parts_done == 1
    assert in_process == [3]
    assert hidden(out) == []
    for path in (tmp_path / "whole").glob("part-*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


DRIVER = """
import os, signal, sys
from motivnet.bulk.job import run_bulk

def die(progress):
    if str(progress.done) == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)

run_bulk(sys.argv[1], sys.argv[2], model=sys.argv[3], part_size=2, progress=die)
"""
# In the second part, when its file is written and not renamed yet: each part syncs its file, then the folder.
AT_THE_SECOND_PART = """
import os, signal, sys
if "motivnet.bulk.worker" in sys.orig_argv:
    real, calls = os.fsync, []
    def fsync(file):
        calls.append(file)
        real(file)
        if len(calls) == 3:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
    os.fsync = fsync
"""


@pytest.mark.parametrize(
    "moment", ["writing", pytest.param("0", marks=pytest.mark.slow), pytest.param("2", marks=pytest.mark.slow)]
)
def test_after_kill_9_nothing_is_lost_or_twice(images, settings, tmp_path, moment, monkeypatch):
    out = tmp_path / "out"
    if moment == "writing":
        (tmp_path / "sitecustomize.py").write_text(AT_THE_SECOND_PART)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    command = [sys.executable, "-c", DRIVER, images, out, settings["model"], moment]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path.name for path in out.glob("part-*")]
    assert left == ([] if moment == "0" else ["part-00000.parquet"])
    assert len(hidden(out)) == (moment == "writing")
    assert run_bulk(str(images), out, **settings).parts_done == 4 - len(left)
    assert [row["input"] for row in rows_of(out)] == list(range(7))
    assert hidden(out) == []


def test_a_finished_run_does_nothing_more(images, settings, tmp_path, in_process):
    run_bulk(str(images), tmp_path / "out", **settings)
    first = (tmp_path / "out" / "_summary.json").read_text()
    in_process.clear()
    summary = run_bulk(str(images), tmp_path / "out", **settings)
    assert in_process == []
    assert (summary.inputs, summary.parts_done, summary.images_per_s) == (7, 0, None)
    assert (tmp_path / "out" / "_summary.json").read_text() == first


@pytest.mark.usefixtures("in_process")
def test_an_image_that_breaks_the_model_fails_alone(images, settings, tmp_path, monkeypatch):
    detect = Predictor._detect

    def break_at_one(self, given, *others):
        if given.image == str(images / "more_0.png"):
            raise RuntimeError("no such luck")
        return detect(self, given, *others)

    monkeypatch.setattr(Predictor, "_detect", break_at_one)
    summary = run_bulk(str(images), tmp_path / "out", **settings)
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok", "no_face", "unreadable", "unreadable"]
    assert rows[2]["error"] == "RuntimeError: no such luck"
    assert summary.failures == {"failed": 1, "unreadable": 2}


@pytest.mark.usefixtures("in_process")
def test_results_go_to_a_url(images, settings, tmp_path):
    import fsspec

    files = fsspec.filesystem("memory")
    try:
        run_bulk(str(images), "memory://bulk_results/run", **settings)
        files.rm("/bulk_results/run/part-00002.parquet")
        assert run_bulk(str(images), "memory://bulk_results/run/", **settings).parts_done == 1
        names = sorted(path.rsplit("/", 1)[1] for path in files.ls("/bulk_results/run", detail=False))
        assert names == ["_plan.json", "_summary.json", *(f"part-0000{number}.parquet" for number in range(4))]
        with files.open("/bulk_results/run/part-00000.parquet") as file:
            assert parquet.read_table(file)["input"].to_pylist() == [0, 1]
    finally:
        files.rm("/bulk_results", recursive=True)


@pytest.mark.usefixtures("in_process")
def test_another_run_is_refused_with_the_differences(images, settings, tmp_path, tiny_bundle):
    out = tmp_path / "out"
    run_bulk(str(images), out, **settings)
    with pytest.raises(OutputError, match=r"settings\.part_size was 2, is 3\. Allowed: the same command, or"):
        run_bulk(str(images), out, **settings | {"part_size": 3})
    (images / "void.png").unlink()
    with pytest.raises(OutputError, match=r"inputs\.fingerprint was .*; inputs\.number was 7, is 6"):
        run_bulk(str(images), out, **settings)
    # The pace is no part of the plan.
    (images / "void.png").write_bytes(b"")
    run_bulk(str(images), out, **settings, workers=1)


@pytest.mark.usefixtures("in_process")
def test_a_run_goes_on_with_an_edited_model_card_but_not_with_another_model(images, tmp_path, tiny_bundle):
    bundle = shutil.copytree(tiny_bundle.path, tmp_path / "model")
    settings = {"model": bundle, "part_size": 2, "abstain_below": "stored"}

    def edit(**changes: Any) -> None:
        card = json.loads((bundle / "config.json").read_text())
        (bundle / "config.json").write_text(json.dumps(card | changes))

    edit(abstain_below=0.5)
    run_bulk(images, tmp_path / "out", **settings)
    edit(summary="Another summary", scores={"mine": {"war": 0.5}}, licence="MIT")
    (bundle / "README.md").write_text("A card")
    assert run_bulk(images, tmp_path / "out", **settings).parts_done == 0
    edit(abstain_below=0.6)
    with pytest.raises(OutputError, match=r"settings\.abstain_below was 0\.5, is 0\.6"):
        run_bulk(images, tmp_path / "out", **settings)
    edit(abstain_below=0.5, calibration={"temperature": 2.0})
    with pytest.raises(OutputError, match="run: model_fingerprint was 'm"):
        run_bulk(images, tmp_path / "out", **settings)


@pytest.mark.usefixtures("in_process")
def test_columns_are_those_of_all_results_and_input_as_the_last(images, settings, tmp_path):
    run_bulk(images / "void.png", tmp_path / "out", **settings)
    columns = list(all_columns(Predictor.load(settings["model"]).config.labels))
    assert parquet.read_table(tmp_path / "out" / "part-00000.parquet").column_names == [*columns, "input"]


@pytest.mark.usefixtures("in_process")
def test_relative_paths_name_the_same_run(images, settings, tmp_path, tiny_bundle, monkeypatch):
    run_bulk(str(images), tmp_path / "out", **settings)
    monkeypatch.chdir(tiny_bundle.path.parent)
    assert run_bulk(images, tmp_path / "out", model=tiny_bundle.path.name, part_size=2).parts_done == 0
    monkeypatch.chdir(images.parent)
    assert run_bulk(images.name, "out", **settings).parts_done == 0


def test_a_folder_of_other_things_is_refused(images, settings, tmp_path):
    with pytest.raises(OutputError, match=r"no _plan\.json"):
        run_bulk(str(images), images, **settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        run_bulk(str(images), tmp_path / "file", **settings)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "_plan.json").write_text("{")
    (tmp_path / "odd" / "part-00000.parquet").write_text("")
    with pytest.raises(OutputError, match=r"_plan\.json: cannot be read"):
        run_bulk(str(images), tmp_path / "odd", **settings)


@pytest.mark.usefixtures("in_process")
def test_a_mistake_in_the_settings_can_be_mended(images, settings, tmp_path, tiny_bundle):
    with pytest.raises(DetectorError, match="did you mean"):
        run_bulk(str(images), tmp_path / "out", **settings, detector="libfacedetect")
    assert run_bulk(str(images), tmp_path / "out", **settings).parts_done == 4


def test_settings_that_do_not_exist(images, tmp_path):
    with pytest.raises(ConfigError, match="Allowed: local, ray"):
        run_bulk(str(images), tmp_path / "out", engine="spark")
    with pytest.raises(ConfigError, match="belong to engine 'ray'"):
        run_bulk(str(images), tmp_path / "out", address="auto")
    with pytest.raises(ConfigError, match="part_size 0"):
        run_bulk(str(images), tmp_path / "out", part_size=0)
    with pytest.raises(ConfigError, match="nonesuch"):
        run_bulk(str(images), "nonesuch://bucket/out")
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        run_bulk(images, tmp_path / "out", batchsize=3)


@pytest.mark.usefixtures("in_process")
def test_a_source_that_changes_under_way_is_an_error(images, settings, tmp_path):
    path = tmp_path / "list.parquet"
    names = [str(images / "no_face.png")] * 4
    parquet.write_table(pa.table({"path": names}), path)

    def cut(progress: Progress) -> None:
        parquet.write_table(pa.table({"path": names[:1]}), path)

    with pytest.raises(DataError, match="has changed since the run began"):
        run_bulk(str(path), tmp_path / "out", **settings, progress=cut)
