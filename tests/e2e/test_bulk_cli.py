"""`motivnet bulk` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", "bulk", *map(str, arguments)]
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


def test_a_run_its_summary_and_its_rows_which_are_those_of_predict(photographs, tiny_bundle, tmp_path):
    known = (photographs, tmp_path / "out", "--model", tiny_bundle.path, "--part-size", 2)
    done = run(*known, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert (summary["inputs"], summary["faces"], summary["parts"], summary["failures"]) == (3, 2, 2, {})
    assert "2 faces in 3 inputs; 1 no face; " in done.stderr
    assert str(tmp_path / "out") in done.stderr
    # The folder as a whole is a table.
    table = parquet.read_table(tmp_path / "out")
    assert table["input"].to_pylist() == [0, 1, 2]
    command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", "predict", str(photographs)]
    command += ["--model", str(tiny_bundle.path), "--out", str(tmp_path / "rows.parquet")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert table.drop_columns(["input"]).to_pylist() == parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    again = run(*known)
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing was left to do" in again.stderr


@pytest.mark.slow
def test_nothing_of_rays_is_printed(photographs, tiny_bundle, tmp_path):
    pytest.importorskip("ray")
    known = ("--model", tiny_bundle.path, "--engine", "ray", "--workers", "1")
    done = run(photographs, tmp_path / "out", *known)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_broken_inputs_are_exit_code_1(photographs, tiny_bundle, tmp_path):
    (photographs / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = run(photographs, tmp_path / "out", "--model", tiny_bundle.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "1 unreadable" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("missing", "out"), ["missing", "no such file or folder"]),
        (("photographs", "out", "--detector", "libfacedetect"), ["did you mean 'libfacedetection'"]),
        pytest.param(("photographs", "nonesuch://bucket"), ["nonesuch"], marks=pytest.mark.slow),
    ],
)
def test_mistakes(photographs, arguments, texts):
    assert_one_line(run(*arguments, cwd=photographs.parent), *texts)


def test_help_is_light_and_tells_the_exit_codes():
    code = (
        "import sys; from motivnet.cli.main import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join({'torch', 'ray', 'pyarrow', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "bulk", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ, COLUMNS="200"),
    )
    assert done.stderr == ""
    assert "Exit codes" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["pyarrow", "fsspec", "ray"])
def test_a_missing_extra_is_named(photographs, tiny_bundle, tmp_path: Path, missing):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    done = run(photographs, tmp_path / "out", "--model", tiny_bundle.path, "--engine", "ray", env=environment)
    assert_one_line(done, missing, "pip install 'motivnet[scale]'")
