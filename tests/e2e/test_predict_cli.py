"""The program as a user runs it: output, exit codes, and every kind of bad input, always without a traceback."""

import base64
import functools
import http.server
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from motivnet.inference.rows import all_columns
from motivnet.labels import EMOTIONS


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def assert_one_line(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    """A user's mistake: exit code 2, one line on stderr that names it, nothing on stdout."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("motivnet: ")
    for text in texts:
        assert text in done.stderr


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def big_png(path: Path, side: int) -> Path:
    """Write a small file that claims side x side black pixels, correctly, a row at a time."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


class TestResults:
    def test_json_is_one_object_per_image_in_order(self, photographs, tiny_bundle):
        done = run("predict", photographs, "--model", tiny_bundle.path, "--json")
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        names = ["astronaut.png", "deep/HOPPER.JPG", "no_face.png"]
        assert [row["source"] for row in rows] == [str(photographs / name) for name in names]
        assert [row["status"] for row in rows] == ["ok", "ok", "no_face"]
        for row in rows:
            assert list(row) == ["source", "status", "error", "model", "preprocessing", "faces"]
            assert row["error"] is None
            assert row["preprocessing"] == tiny_bundle.config.preprocessing.fingerprint
        (face,) = rows[0]["faces"]
        columns = [name for name in all_columns(()) if name in face]
        assert list(face) == [*columns, "probs"]
        assert {"face", "x", "face_score", "emotion", "prob", "tiny"} <= set(columns)
        assert face["abstained"] is False
        x, y, width, height = (face[name] for name in ("x", "y", "width", "height"))
        assert (150 < x < 200, 40 < y < 80, 75 < width < 110, 90 < height < 130) == (True,) * 4
        assert list(face["probs"]) == list(EMOTIONS)
        assert face["emotion"] == max(face["probs"], key=face["probs"].get)
        assert sum(face["probs"].values()) == pytest.approx(1, abs=1e-5)
        assert "2 faces in 3 images; 1 without a face" in done.stderr

    def test_the_table_has_a_row_per_face(self, photographs, tiny_bundle):
        done = run("predict", photographs / "*.png", "--model", tiny_bundle.path, "--top-k", 2)
        assert done.returncode == 0, done.stderr
        head, *rows = [line for line in done.stdout.splitlines() if line.strip(" ─")]
        assert head.split() == ["image", "emotion", "prob", "then", "face", "at", "x,", "y", "size", "face", "score"]
        text = " ".join(done.stdout.split())
        assert "no face" in text
        assert any(emotion in text for emotion in EMOTIONS)
        assert text.count("%") == 2
        assert rows

    @pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
    def test_out_writes_a_file_and_no_table(self, photographs, tiny_bundle, tmp_path, extension):
        out = tmp_path / f"results.{extension}"
        done = run("predict", photographs, "--model", tiny_bundle.path, "--out", out)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert str(out) in done.stderr
        assert out.stat().st_size > 100
        again = run("predict", photographs, "--model", tiny_bundle.path, "--out", out)
        assert_one_line(again, "exists already", "--overwrite")
        assert run("predict", photographs, "--model", tiny_bundle.path, "--out", out, "--overwrite").returncode == 0

    def test_abstention_is_in_the_row_and_in_the_table(self, photographs, tiny_bundle):
        known = ("predict", photographs / "astronaut.png", "--model", tiny_bundle.path, "--abstain-below", "1")
        done = run(*known, "--json")
        (face,) = json.loads(done.stdout)["faces"]
        assert face["abstained"] is True
        assert face["emotion"] == max(face["probs"], key=face["probs"].get)
        done = run(*known)
        assert f"{face['emotion']}?" in done.stdout
        assert "1 face in 1 image; abstained from 1, marked '?'" in done.stderr

    def test_annotate_writes_every_photograph(self, photographs, tiny_bundle, tmp_path):
        done = run("predict", photographs, "--model", tiny_bundle.path, "--annotate", tmp_path / "drawn")
        assert done.returncode == 0, done.stderr
        assert names(tmp_path / "drawn") == {"HOPPER.JPG", "astronaut.png", "no_face.png"}
        with Image.open(photographs / "astronaut.png") as before, Image.open(tmp_path / "drawn/astronaut.png") as after:
            assert before.size == after.size
            assert np.any(np.asarray(before) != np.asarray(after))

    def test_whole_takes_an_image_for_a_face(self, photographs, tiny_bundle):
        done = run("predict", photographs / "no_face.png", "--model", tiny_bundle.path, "--detector", "whole", "--json")
        assert json.loads(done.stdout)["faces"][0].items() >= {"x": 0, "y": 0, "width": 300, "height": 200}.items()

    def test_a_reader_that_leaves_is_no_drama(self, photographs, tiny_bundle):
        command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", "predict", "--json"]
        # Far more lines than a pipe holds: it cannot end before its reader has left.
        command += ["--model", str(tiny_bundle.path), *[str(photographs / "no_face.png")] * 1000]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stderr
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""


class TestFromAnywhere:
    """URLs, standard input, base64, videos and cameras in one run: what is bad never stops the others."""

    @pytest.fixture
    def web(self, photographs) -> Iterator[str]:
        handler = functools.partial(QuietHandler, directory=str(photographs))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    @pytest.fixture
    def clip(self, tmp_path) -> Path:
        """Write 2.5 seconds of video."""
        pytest.importorskip("av")
        writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
        for _ in range(25):
            writer.write(np.full((48, 64, 3), 200, np.uint8))
        writer.release()
        return tmp_path / "clip.avi"

    def test_everything_has_its_rows(self, web, clip, photographs, tiny_bundle, tmp_path):
        text = tmp_path / "text.mp4"
        text.write_text("this is no video")
        good = base64.b64encode((photographs / "no_face.png").read_bytes()).decode()
        urls = [f"{web}/astronaut.png?x=1", f"{web}/missing.jpg", "http://127.0.0.1:1/"]
        inputs = [*urls, clip, text, "camera:97", f"data:image/png;base64,{good}", "data:image/png;base64,***", "-"]
        with (photographs / "deep" / "HOPPER.JPG").open("rb") as stdin:
            known = ("--model", tiny_bundle.path, "--detector", "whole", "--json")
            done = run("predict", *inputs, *known, stdin=stdin)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(row["source"], row["status"]) for row in rows] == [
            (urls[0], "ok"),
            (urls[1], "unreadable"),
            (urls[2], "unreadable"),
            *((f"{clip}@{time_s}.000s", "ok") for time_s in range(3)),
            (str(text), "unreadable"),
            ("camera:97", "unreadable"),
            ("<data URL 8>", "ok"),
            ("<data URL 9>", "unreadable"),
            ("<stdin>", "ok"),
        ]
        assert done.returncode == 1
        assert done.stderr.splitlines() == ["6 faces in 11 images; 5 unreadable"]
        assert "status 404" in rows[1]["error"]
        assert "not base64" in rows[9]["error"]

    def test_what_is_no_file_can_be_drawn_on_too(self, web, photographs, tiny_bundle, tmp_path):
        with (photographs / "deep" / "HOPPER.JPG").open("rb") as stdin:
            known = ("--model", tiny_bundle.path, "--annotate", tmp_path / "drawn")
            done = run("predict", f"{web}/astronaut.png", "-", f"{web}/deep/HOPPER.JPG", *known, stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert names(tmp_path / "drawn") == {"astronaut.png", "stdin.png", "HOPPER.JPG"}

    def test_one_line_for_what_cannot_be_meant(self, clip, tiny_bundle, tmp_path):
        assert_one_line(run("predict", "-", "-"), "standard input is one image")
        done = run("predict", clip, "--annotate", tmp_path / "drawn")
        assert_one_line(done, "--annotate draws on photographs", "`motivnet video`")
        empty = run("predict", "-", "--model", tiny_bundle.path, "--json", stdin=subprocess.DEVNULL)
        assert (empty.returncode, json.loads(empty.stdout)["error"]) == (1, "the file is empty")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class TestBadInput:
    @pytest.fixture
    def bad(self, tmp_path, photographs) -> Path:
        folder = tmp_path / "bad"
        folder.mkdir()
        whole = (photographs / "deep" / "HOPPER.JPG").read_bytes()
        (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        (folder / "empty.jpg").write_bytes(b"")
        (folder / "text.jpg").write_text("this is no photograph")
        big_png(folder / "vast.png", 20_000)
        (folder / "zgood.jpg").write_bytes(whole)
        return folder

    def test_broken_images_become_rows_and_exit_code_1(self, bad, tiny_bundle):
        done = run("predict", bad, "--model", tiny_bundle.path, "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        found = {Path(row["source"]).name: (row["status"], bool(row["error"]), len(row["faces"])) for row in rows}
        assert found == {
            **dict.fromkeys(["cut.jpg", "empty.jpg", "text.jpg", "vast.png"], ("unreadable", True, 0)),
            "zgood.jpg": ("ok", False, 1),
        }
        assert done.returncode == 1
        assert "4 unreadable" in done.stderr

    def test_broken_images_are_in_the_table_and_are_not_drawn(self, bad, tiny_bundle, tmp_path):
        done = run("predict", bad, "--model", tiny_bundle.path, "--annotate", tmp_path / "drawn")
        assert done.returncode == 1
        assert done.stdout.count("unreadable") == 4
        assert names(tmp_path / "drawn") == {"zgood.jpg"}

    def test_paths_that_name_nothing(self, tmp_path, photographs):
        assert_one_line(run("predict", photographs, tmp_path / "missing.jpg"), "missing.jpg", "no such file or folder")
        (tmp_path / "empty").mkdir()
        assert_one_line(run("predict", tmp_path / "empty"), "no images in this folder")
        (tmp_path / "empty" / "a.txt").write_text("hello")
        assert_one_line(run("predict", tmp_path / "empty"), "no images in this folder", ".jpg")
        assert_one_line(run("predict", tmp_path / "*.gif"), "no file matches")

    def test_unknown_names(self, photographs, tiny_bundle):
        assert_one_line(run("predict", photographs, "--model", "nanno"), "unknown model 'nanno'")
        done = run("predict", photographs, "--model", tiny_bundle.path, "--detector", "libfacedetect")
        assert_one_line(done, "did you mean 'libfacedetection'")
        known = ("predict", photographs, "--model", tiny_bundle.path, "--abstain-below")
        assert_one_line(run(*known, "half"), "threshold 'half'", "Allowed: a probability")
        assert_one_line(run(*known, "1.5"), "abstain_below 1.5", "from 0 to 1")
        assert_one_line(run(*known, "stored"), "has no threshold", "motivnet calibrate --accuracy")

    def test_impossible_outputs(self, photographs, tiny_bundle, tmp_path):
        known = ("predict", photographs, "--model", tiny_bundle.path)
        assert_one_line(run(*known, "--out", tmp_path / "x.xlsx"), "unknown format '.xlsx'")
        assert_one_line(run(*known, "--out", tmp_path / "missing" / "x.csv"), "does not exist")
        assert_one_line(run(*known, "--out", "/proc/x.csv"), "/proc/x.csv", "cannot be written")
        assert_one_line(run(*known, "--annotate", photographs, "--overwrite"), "is one of the photographs")
        assert_one_line(run(*known, "--annotate", "/proc/drawn"), "/proc/drawn", "cannot be created")

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
    def test_ctrl_c_is_exit_code_130_and_leaves_no_file(self, photographs, tiny_bundle, tmp_path):
        out, many = tmp_path / "results", tmp_path / "many"
        out.mkdir()
        many.mkdir()
        for number in range(1000):
            os.link(photographs / "deep" / "HOPPER.JPG", many / f"{number}.jpg")
        # A shell starts its background jobs deaf to SIGINT, and these tests may run in one.
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from motivnet.cli.main import main; main()"
        )
        command = [sys.executable, "-c", code, "predict", str(many), "--json"]
        command += ["--model", str(tiny_bundle.path), "--out", str(out / "x.csv")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=300)
        assert (process.returncode, complaints) == (130, "")
        assert names(out) == set()

    def test_wrong_options_are_the_users_mistake_too(self):
        for arguments in (
            ["predict"],
            ["predict", "x.jpg", "--top-k", "0"],
            ["predict", "x.jpg", "--tpo-k", "1"],
            ["pred"],
        ):
            assert run(*arguments).returncode == 2


class TestProgram:
    def test_version(self):
        done = run("--version")
        assert (done.returncode, done.stdout.split()[0]) == (0, "motivnet")

    def test_help_is_light_and_tells_the_exit_codes(self):
        code = (
            "import sys; from motivnet.cli.main import main\n"
            "try: main()\n"
            "finally: sys.stderr.write(' '.join({'torch', 'cv2', 'onnxruntime', 'numpy', 'PIL'} & set(sys.modules)))"
        )
        command = [sys.executable, "-c", code, "predict", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert "Exit codes" in done.stdout

    def test_predict_never_loads_torch(self, photographs, tiny_bundle):
        code = (
            "import sys; from motivnet.cli.main import main\n"
            "try: main()\n"
            "finally: print('torch' in sys.modules, file=sys.stderr)"
        )
        command = [sys.executable, "-c", code, "predict", str(photographs), "--model", str(tiny_bundle.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == "False"
