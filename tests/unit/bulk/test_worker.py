import os
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fsspec")
parquet = pytest.importorskip("pyarrow.parquet")

from motivnet.bulk.fsspec_files import OutputFolder  # noqa: E402
from motivnet.bulk.image_sources import open_source  # noqa: E402
from motivnet.bulk.parts import Part  # noqa: E402
from motivnet.bulk.worker import Worker  # noqa: E402
from motivnet.errors import ConfigError, DataError  # noqa: E402
from motivnet.inference.predictor_config import PredictorConfig  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills processes with POSIX signals")

# What a library with a fault in it does.
DEADLY = """
import os, signal, sys
if "motivnet.bulk.worker" in sys.orig_argv:
    from motivnet.inference import predictor
    real = predictor.decode_reduced
    def decode_reduced(source, long_side, **options):
        if os.path.basename(str(source)).startswith("killer"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(source, long_side, **options)
    predictor.decode_reduced = decode_reduced
"""
ENDLESS = """
import os, sys, threading
if "motivnet.bulk.worker" in sys.orig_argv:
    from motivnet.inference import predictor
    real = predictor.decode_reduced
    def decode_reduced(source, long_side, **options):
        if os.path.basename(str(source)).startswith("killer"):
            # As if it had been there for an hour.
            from motivnet.bulk.parts import TimedPredictor
            TimedPredictor.began_s[threading.get_ident()] -= 3600
            threading.Event().wait()
        return real(source, long_side, **options)
    predictor.decode_reduced = decode_reduced
"""
DEADLY_ONCE = """
import os, signal, sys
from pathlib import Path
flag = Path(__file__).with_name("killed")
if "motivnet.bulk.worker" in sys.orig_argv and not flag.exists():
    from motivnet.bulk.fsspec_files import OutputFolder
    def write(self, name, data):
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    OutputFolder.write = write
"""
DEADLY_AT_THE_START = """
import os, signal, sys
if "motivnet.bulk.worker" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def part(tmp_path: Path, astronaut) -> Part:
    """Part 3: four images, of which the last but one is deadly to those that it is."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "killer.png", "z.png"):
        Image.fromarray(astronaut).save(folder / name)
    source = open_source(str(folder))
    return Part(3, 12, source.slice(0, len(source)))


def patch(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker's process run this before anything else."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])


def write(part: Part, bundle, out: Path) -> list[dict]:
    out.mkdir()
    worker = Worker(str(bundle.path), PredictorConfig(threads=1), OutputFolder(out))
    try:
        counts = worker.write(part)
    finally:
        worker.close()
    rows = parquet.read_table(out / "part-00003.parquet").to_pylist()
    assert counts.inputs == len(part.inputs) == len({row["input"] for row in rows})
    return rows


def test_an_image_that_kills_the_process_fails_alone(part, tiny_bundle, tmp_path, monkeypatch):
    patch(DEADLY, tmp_path, monkeypatch)
    rows = write(part, tiny_bundle, tmp_path / "out")
    assert [(row["input"], row["status"]) for row in rows] == [(12, "ok"), (13, "ok"), (14, "failed"), (15, "ok")]
    assert rows[2]["error"] == "the process was killed by SIGSEGV at this input"
    assert rows[2]["source"].endswith("killer.png")
    assert rows[2]["model"] == "tiny"
    assert rows[2]["emotion"] is None


def test_an_image_that_takes_too_long_fails_alone(part, tiny_bundle, tmp_path, monkeypatch):
    patch(ENDLESS, tmp_path, monkeypatch)
    rows = write(part, tiny_bundle, tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok"]
    assert rows[2]["error"] == "the process took longer than 60 s at this input"


@pytest.mark.slow
def test_a_process_that_somebody_kills_costs_no_input(part, tiny_bundle, tmp_path, monkeypatch):
    patch(DEADLY_ONCE, tmp_path, monkeypatch)
    rows = write(part, tiny_bundle, tmp_path / "out")
    assert (tmp_path / "site" / "killed").exists()
    assert [row["status"] for row in rows] == ["ok"] * 4


def test_a_process_that_never_gets_anywhere_is_an_error(part, tiny_bundle, tmp_path, monkeypatch):
    patch(DEADLY_AT_THE_START, tmp_path, monkeypatch)
    with pytest.raises(DataError, match="part 3, inputs 12 to 15: the worker process was killed by SIGKILL"):
        write(part, tiny_bundle, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_errors_of_ours_come_through(part, tiny_bundle, tmp_path):
    worker = Worker(str(tiny_bundle.path), PredictorConfig(abstain_below="stored"), OutputFolder(tmp_path))
    with pytest.raises(ConfigError, match="has no threshold"):
        worker.write(part)
    assert worker.close() == "was not running"


def test_the_process_ends_with_its_parent(part, tiny_bundle, tmp_path):
    worker = Worker(str(tiny_bundle.path), PredictorConfig(), OutputFolder(tmp_path))
    worker.write(part)
    process = worker._process
    assert process is not None
    assert process.stdin
    # As at the end of a parent that was killed.
    process.stdin.close()
    assert process.wait(600) == 0
    assert worker.close() == "ended with exit code 0"
