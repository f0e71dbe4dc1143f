"""Logs as one JSON object a line, on stderr. None holds image data, names of files, or query strings."""

import json
import logging
import time

# Attribute of a record with what else its line says.
FIELDS = "fields"


class JsonLines(logging.Formatter):
    """Make a line of a record: time, level, logger, message, further fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(level: str) -> None:
    """Send everything from `level` on, in small letters, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn says at every start and end what our own lines say.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
