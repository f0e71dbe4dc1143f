import json
import logging
import sys

from motivnet.server.logs import FIELDS, JsonLines, log_to_stderr


def record(**more) -> logging.LogRecord:
    made = logging.LogRecord(
        "a.b", logging.WARNING, "f.py", 1, "said %s\nand more", ("this",), more.pop("exc_info", None)
    )
    made.__dict__.update(more)
    return made


def test_a_record_is_one_line():
    text = JsonLines().format(record(**{FIELDS: {"status": 200}}))
    line = json.loads(text)
    assert "\n" not in text
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "logger": "a.b", "message": "said this\nand more", "status": 200}


def test_a_traceback_is_in_it():
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        text = JsonLines().format(record(exc_info=sys.exc_info()))
    assert "\n" not in text
    assert "ZeroDivisionError" in json.loads(text)["traceback"]


def test_levels(capsys):
    root = logging.getLogger()
    before, level, uvicorns = root.handlers[:], root.level, logging.getLogger("uvicorn.error").level
    try:
        log_to_stderr("info")
        logging.getLogger("motivnet.server").info("ours")
        logging.getLogger("uvicorn.error").info("theirs")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("uvicorn.error").setLevel(uvicorns)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "ours"
