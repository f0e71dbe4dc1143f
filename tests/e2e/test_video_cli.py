"""`motivnet video` as a user runs it: tables, pictures, pages, killed runs, and every kind of bad input."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import click.testing
import numpy as np
import pytest
import typer.testing
from PIL import Image

from motivnet.cli.main import app
from motivnet.errors import MotivNetError
from motivnet.images import decode_image
from motivnet.inference.rows import all_columns
from motivnet.labels import EMOTIONS

av = pytest.importorskip("av")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = list(all_columns(EMOTIONS))
MAIN = "from motivnet.cli.main import main; main()"
# Dies, as by kill -9, just before the so-many-th time that a file gets its final name.
KILLED = """
import os, signal, sys
from pathlib import Path
left, replace = int(sys.argv.pop(1)), Path.replace
def dying(self, target):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
from motivnet.cli.main import main
main()
"""


def run(*arguments: object) -> click.testing.Result:
    return typer.testing.CliRunner().invoke(app, list(map(str, arguments)))


def refused(*arguments: object) -> str:
    """Run what a user got wrong: one line and exit code 2, which the program makes of a MotivNetError."""
    done = run(*arguments)
    assert isinstance(done.exception, MotivNetError), done.output
    return str(done.exception)


def program(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def draw(path: Path, images: Sequence[np.ndarray], codec: str = "libx264", fps: int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "10"} if codec == "libx264" else {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 10
        for position, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = position, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """45 frames of 300 x 200: a face that wanders, is away for 8 frames, and is joined by another."""
    face = np.asarray(Image.fromarray(astronaut[20:220, 130:330]).resize((140, 140)))
    images = []
    for number in range(45):
        image = np.full((200, 300, 3), 90, np.uint8)
        if not 12 <= number < 20:
            image[30:170, number : number + 140] = face
        if number >= 28:
            image[10:110, 200:300] = np.asarray(Image.fromarray(face).resize((100, 100)))
        images.append(np.clip(image * (1 - number / 90), 0, 255).astype(np.uint8))
    return draw(tmp_path_factory.mktemp("clips") / "clip.mp4", images)


@pytest.fixture
def still(tmp_path: Path) -> Path:
    return draw(tmp_path / "still.mp4", [np.full((48, 64, 3), 5 * k, np.uint8) for k in range(12)])


@pytest.fixture
def tiny(tiny_bundle) -> list[object]:
    """Options of a quick model that needs no detector."""
    return ["--model", tiny_bundle.path, "--detector", "whole"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def read_table(path: Path) -> list[dict]:
    return parquet.read_table(path).to_pylist()


class TestTables:
    def test_one_row_per_face_and_frame(self, clip, tiny_bundle, tmp_path):
        out = tmp_path / "rows.parquet"
        done = run("video", clip, "--out", out, "--model", tiny_bundle.path)
        assert done.exit_code == 0, done.output
        rows = read_table(out)
        assert list(rows[0]) == COLUMNS
        assert {row["frame"] for row in rows} == set(range(45))
        assert [row["frame"] for row in rows if row["status"] == "no_face"] == list(range(12, 20))
        assert all(row["track"] is None and row["x"] is None for row in rows if row["status"] == "no_face")
        ids = [{row["track"] for row in rows if row["frame"] == frame} for frame in (0, 30, 44)]
        assert ids == [{0}, {0, 1}, {0, 1}]
        good = [row for row in rows if row["status"] == "ok"]
        assert all(sum(row[f"prob_{label}"] for label in EMOTIONS) == pytest.approx(1) for row in good)
        assert rows[44]["time_s"] == pytest.approx(rows[44]["frame"] / 25)
        assert done.stdout == ""
        assert f"{len(good)} faces of 2 tracks in 45 frames; 8 without a face; written to {out}" in done.stderr
        assert names(tmp_path) == {"rows.parquet"}

    def test_figures_agree_with_predict(self, clip, tiny_bundle, tmp_path):
        with av.open(str(clip)) as container:
            next(container.decode(video=0)).to_image().save(tmp_path / "first.png")
        run("predict", tmp_path / "first.png", "--model", tiny_bundle.path, "--out", tmp_path / "image.parquet")
        run("video", clip, "--model", tiny_bundle.path, "--end", 0.04, "--out", tmp_path / "video.parquet")
        (image,), (video,) = read_table(tmp_path / "image.parquet"), read_table(tmp_path / "video.parquet")
        for name in set(COLUMNS) - {"source", "frame", "time_s", "track", "short_track"}:
            assert video[name] == (pytest.approx(image[name]) if isinstance(image[name], float) else image[name]), name

    def test_all_formats_hold_the_same(self, still, tiny, tmp_path):
        for name in ("a.csv", "a.jsonl", "a.parquet"):
            assert run("video", still, "--out", tmp_path / name, *tiny).exit_code == 0
        from_parquet = read_table(tmp_path / "a.parquet")
        assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == from_parquet
        with (tmp_path / "a.csv").open(newline="") as file:
            from_csv = list(csv.DictReader(file))
        as_text = [{name: "" if value is None else str(value) for name, value in row.items()} for row in from_parquet]
        assert as_text == from_csv

    @pytest.mark.parametrize(
        ("options", "frames"),
        [
            (["--stride", 5], [0, 5, 10]),
            (["--fps", 5], [0, 5, 10]),
            (["--start", 0.2, "--end", 0.32], [5, 6, 7]),
        ],
    )
    def test_selections(self, still, tiny, tmp_path, options, frames):
        assert run("video", still, "--out", tmp_path / "a.parquet", *tiny, *options).exit_code == 0
        assert [row["frame"] for row in read_table(tmp_path / "a.parquet")] == frames

    def test_smoothing_and_rarer_searches(self, still, tiny, tmp_path):
        run("video", still, "--out", tmp_path / "a.parquet", *tiny)
        run("video", still, "--out", tmp_path / "b.parquet", *tiny, "--smooth", 0.5, "--detect-every", 4)
        plain, smooth = read_table(tmp_path / "a.parquet"), read_table(tmp_path / "b.parquet")
        assert plain[0] == smooth[0]
        assert smooth[-1]["prob_sadness"] > plain[-1]["prob_sadness"]

    def test_several_videos_are_one_table_with_their_sources(self, still, clip, tiny, tmp_path):
        bad = tmp_path / "bad.mp4"
        bad.write_text("no video")
        out = tmp_path / "all.parquet"
        drawn = tmp_path / "drawn"
        done = run("video", still, bad, clip, "--out", out, *tiny, "--stride", 4, "--annotate", drawn)
        assert done.exit_code == 1
        assert done.stderr.splitlines()[0].startswith(f"motivnet: {bad}: not a video")
        assert "1 of the videos could not be read" in done.stderr
        rows = read_table(out)
        assert list(rows[0]) == COLUMNS
        assert [row["source"] for row in rows] == [str(still)] * 3 + [str(bad)] + [str(clip)] * 12
        assert [row["status"] for row in rows if row["source"] == str(bad)] == ["unreadable"]
        assert {row["track"] for row in rows if row["status"] == "ok"} == {0}
        assert names(drawn) == {"still.mp4", "clip.mp4"}


class TestPictures:
    def test_the_annotated_copy_shows_what_was_seen_when(self, clip, tiny_bundle, tmp_path):
        out = tmp_path / "drawn.mp4"
        options = ["--annotate", out, "--checkpoint-every", 10, "--stride", 2]
        done = run("video", clip, "--out", tmp_path / "a.csv", "--model", tiny_bundle.path, *options)
        assert done.exit_code == 0, done.output
        with av.open(str(clip)) as before, av.open(str(out)) as after:
            originals = [frame.to_ndarray(format="rgb24") for frame in before.decode(video=0)][::2]
            frames = list(after.decode(video=0))
        assert [frame.time for frame in frames] == pytest.approx([k * 2 / 25 for k in range(23)], abs=1e-4)
        changes = [
            np.abs(frame.to_ndarray(format="rgb24").astype(int) - original).mean()
            for frame, original in zip(frames, originals, strict=True)
        ]
        assert min(changes[:6]) > 4
        assert max(changes[6:10]) < 2  # nobody is there

    def test_timeline_and_report(self, clip, tiny_bundle, tmp_path):
        folder = tmp_path / "<b>&"
        folder.mkdir()
        video = folder / "<script>alert(1)<script>.mp4"
        os.link(clip, video)
        options = ["--timeline", tmp_path / "t.png", "--report", tmp_path / "r.html"]
        done = run("video", video, "--out", tmp_path / "a.csv", "--model", tiny_bundle.path, *options)
        assert done.exit_code == 0, done.output
        picture = decode_image(tmp_path / "t.png")
        assert picture.shape[1] > 1000
        page = (tmp_path / "r.html").read_text()
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
        assert not re.findall(r"url\((?!#)", page)
        assert page.count("data:image/png;base64") == 2
        for text in ("It sees no feelings", "#0", "#1", "Share of time", "8 frames", "tiny"):
            assert text in page


def film(path: Path) -> tuple[list[float], np.ndarray]:
    """Return the times of a video's frames, and their pixels, float32 (F, h, w, 3)."""
    with av.open(str(path)) as container:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time_s for time_s, _ in found], np.stack([image for _, image in found]).astype(np.float32)


class TestResume:
    @pytest.fixture
    def command(self, clip, tiny_bundle) -> list[object]:
        options = ["--detect-every", 2, "--smooth", 0.3, "--checkpoint-every", 10]
        return ["video", clip, "--model", tiny_bundle.path, *options]

    @staticmethod
    def outputs(folder: Path) -> list[object]:
        return ["--out", folder / "a.parquet", "--annotate", folder / "a.mp4", "--report", folder / "a.html"]

    @pytest.mark.parametrize("deaths", [(4, 6), pytest.param((4, 3, 2, 3), marks=pytest.mark.slow)])
    def test_killed_again_and_again(self, command, tmp_path, deaths):
        """After two checkpoints (or four, or all), and when two of three results have their names."""
        whole, often = tmp_path / "whole", tmp_path / "often"
        whole.mkdir()
        often.mkdir()
        done = run(*command, *self.outputs(whole))
        assert done.exit_code == 0, done.output
        for place, replaced in enumerate(deaths):
            done = program(KILLED, replaced, *command, *self.outputs(often), "--resume")
            assert done.returncode == -signal.SIGKILL, done.stderr
            # The last but the rows is there already: they come last.
            results = {name for name in names(often) if not name.startswith(".")}
            assert results == ({"a.mp4", "a.html"} if place == len(deaths) - 1 else set())
            assert ".a.parquet.unfinished" in names(often)
        done = run(*command, *self.outputs(often), "--resume")
        assert done.exit_code == 0, done.output
        assert names(often) == names(whole) == {"a.parquet", "a.mp4", "a.html"}
        for name in ("a.parquet", "a.html"):
            assert (often / name).read_bytes() == (whole / name).read_bytes(), name
        # Not byte for byte: the encoder now and then spends other bits on the same pictures.
        (times, frames), (expected_times, expected) = (film(folder / "a.mp4") for folder in (often, whole))
        assert times == expected_times
        assert np.abs(frames - expected).mean((1, 2, 3)).max() < 1

    def test_killed_from_outside_at_any_time(self, command, tmp_path):
        run(*command, "--out", tmp_path / "whole.jsonl")
        out = tmp_path / "killed.jsonl"
        # Searches the frames up to the first checkpoint, and never gets beyond the thirtieth: each is darker by 1.
        code = (
            "import threading; from motivnet.faces.yunet import YuNet as D; find = D.detect\n"
            "def detect(self, image):\n"
            "    if image[180:].mean() < 60: threading.Event().wait()\n"
            "    return find(self, image)\n"
            f"D.detect = detect\n{MAIN}"
        )
        state = tmp_path / ".killed.jsonl.unfinished" / "0.json"
        with subprocess.Popen([sys.executable, "-c", code, *map(str, command), "--out", str(out)]) as process:
            while not state.exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        assert not out.exists()
        assert run(*command, "--out", out, "--resume").exit_code == 0
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    @pytest.fixture
    def broken_off(self, command, tmp_path, monkeypatch) -> Path:
        """A run that ended at its second checkpoint."""
        from motivnet.video.label import _Job

        save, saved = _Job._save, []

        def failing(self, number, *unfinished):
            save(self, number, *unfinished)
            saved.append(number)
            if len(saved) == 2:
                raise KeyboardInterrupt

        out = tmp_path / "a.csv"
        with monkeypatch.context() as patch:
            patch.setattr(_Job, "_save", failing)
            done = run(*command, "--out", out)
        assert (done.exit_code, done.stderr.strip()) == (130, "stopped; the same command with --resume continues")
        assert not out.exists()
        return out

    def test_another_plan_is_refused(self, command, broken_off, tmp_path, tiny_bundle, still):
        def changed(option, value):
            place = command.index(option) + 1
            return [*command[:place], value, *command[place + 1 :], "--out", broken_off, "--resume"]

        assert "smooth_s was 0.3, is 0.0" in refused(*changed("--smooth", 0))
        assert "video was" in refused("video", still, *command[2:], "--out", broken_off, "--resume")
        assert "model was 'tiny" in refused(*changed("--model", "nano"))
        assert run(*command, "--out", broken_off, "--resume", "--annotate", tmp_path / "a.mp4").exit_code == 0
        assert names(tmp_path) == {"a.csv", "a.mp4", "still.mp4"}

    def test_what_is_left_is_not_lost_silently(self, command, broken_off, tmp_path):
        assert "--resume continues it" in refused(*command, "--out", broken_off)
        assert run(*command, "--out", broken_off, "--overwrite").exit_code == 0
        assert names(tmp_path) == {"a.csv"}

    def test_with_nothing_left_it_begins(self, still, tiny, tmp_path):
        out = tmp_path / "a.csv"
        assert run("video", still, "--out", out, *tiny, "--resume").exit_code == 0
        assert "exists already" in refused("video", still, "--out", out, *tiny, "--resume")


class TestBadInput:
    def test_files_that_are_no_video(self, still, tiny, tmp_path):
        text, empty, cut, sound = (tmp_path / name for name in ("text.mp4", "empty.mp4", "cut.mp4", "sound.mkv"))
        text.write_text("no video at all\n" * 100)
        empty.touch()
        cut.write_bytes(still.read_bytes()[: still.stat().st_size // 2])
        with av.open(str(sound), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, 0
            container.mux(stream.encode(frame))
        for path, says in (
            (text, "not a video"),
            (empty, "is empty"),
            (cut, "not a video"),
            (sound, "no video stream"),
        ):
            done = run("video", path, "--out", tmp_path / "a.csv", *tiny)
            assert done.exit_code == 1
            assert len(done.stderr.splitlines()) == 1
            assert says in done.stderr
        assert names(tmp_path) == {"text.mp4", "empty.mp4", "cut.mp4", "sound.mkv", "still.mp4"}

    def test_mistakes_in_the_command(self, still, tiny, tmp_path):
        known = ["video", still, "--out", tmp_path / "a.csv", *tiny]
        out = known[2:]
        assert "no such file or folder" in refused("video", tmp_path / "none.mp4", *out)
        (tmp_path / "films").mkdir()
        assert "no videos in this folder" in refused("video", tmp_path / "films", *out)
        (tmp_path / "films").rmdir()
        assert "nothing to write" in refused("tabulate", still)
        assert "no file matches" in refused("video", tmp_path / "*.avi", *out)
        assert "unknown format '.xlsx'" in refused("video", still, "--out", tmp_path / "a.xlsx", *tiny)
        assert "unknown format '.avi'" in refused(*known, "--annotate", tmp_path / "a.avi")
        assert "is the video" in refused(*known, "--overwrite", "--annotate", still)
        assert "end 1.0 s" in refused(*known, "--start", 2, "--end", 1)
        assert "no frame from 99 s" in refused(*known, "--start", 99)
        assert "only one of them" in refused(*known, "--fps", 5, "--stride", 2)
        assert "smoothing of -1" in refused(*known, "--smooth", -1)
        assert names(tmp_path) == {"still.mp4"}

    def test_corrupt_frames_and_a_missing_end_are_said(self, tiny, tmp_path):
        images = [np.random.default_rng(k).integers(0, 255, (48, 64, 3), np.uint8) for k in range(40)]
        path = draw(tmp_path / "a.avi", images, "mpeg4")
        with av.open(str(path)) as container:
            packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
        data = bytearray(path.read_bytes())
        at, size = packets[10]
        data[at : at + size] = bytes(size)
        path.write_bytes(data)
        done = run("video", path, "--out", tmp_path / "a.parquet", *tiny)
        assert (done.exit_code, done.stderr.splitlines()[0]) == (0, f"{path}: 1 corrupt frame skipped")
        assert [row["frame"] for row in read_table(tmp_path / "a.parquet")] == [*range(10), *range(11, 40)]
        path = draw(tmp_path / "b.mkv", images, "mpeg4", fps=10)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        done = run("video", path, "--out", tmp_path / "b.parquet", *tiny)
        assert done.exit_code == 0
        assert "says that it lasts 4.00 s" in done.stderr.splitlines()[0]

    def test_the_program_says_it_in_one_line(self, tmp_path):
        done = program(MAIN, "video", tmp_path / "none.mp4", "--out", tmp_path / "a.csv")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"motivnet: {tmp_path / 'none.mp4'}: no such file or folder\n"
