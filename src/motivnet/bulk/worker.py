"""A `PartWriter` in a process of its own, so that an image which crashes the process costs only that process.

Python exceptions are caught by `PartWriter`; the crash of a library, or the system's out-of-memory killer, are not. A
process that has been at one image for `TIMEOUT_S` ends itself. The part is then repeated in a new process, one input at
a time, each reported before it is tried; an input at which the process dies `MAX_DEATHS` times becomes `failed`, and
all others keep their results.

    python -m motivnet.bulk.worker PARENT

is that process, see `motivnet.child_process`. It ends with its parent.
"""

import collections
import contextlib
import functools
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from motivnet import child_process
from motivnet.bulk.fsspec_files import OutputFolder
from motivnet.bulk.parts import Counts, Outcome, Part, PartWriter, TimedPredictor
from motivnet.errors import DataError, MotivNetError
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.machine import prepare_for_images

# At one input, tried alone. A single death may have another cause.
MAX_DEATHS = 2
# To decode an image and look for faces; and the exit code of a process that took longer.
TIMEOUT_S, TIMEOUT_CODE = 60.0, 124
_CHECK_EVERY_S = 0.5
_TOO_LONG = f"took longer than {TIMEOUT_S:g} s"


class Worker:
    """Write parts in another process, which holds the model."""

    def __init__(self, model: str, config: PredictorConfig, folder: OutputFolder) -> None:
        """Store the arguments of the `PartWriter`; the process starts with the first part."""
        self._arguments = model, config, folder
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, part: Part) -> Counts:
        """Predict a part, and write its file.

        Raises:
            DataError: if the process dies repeatedly, and not because of a single input.
            MotivNetError: what `PartWriter` raises.
        """
        known: dict[int, Outcome | str] = {}
        deaths: collections.Counter[int | None] = collections.Counter()
        one_by_one = False
        while True:
            current: int | None = None
            for reply in self._request(part, known if one_by_one else None):
                match reply:
                    case Counts():
                        return reply
                    case MotivNetError():
                        self.close()
                        raise reply
                    case int():
                        current = reply
                    case (position, outcome):
                        known[position] = outcome
                        current = None
            how = self.close()
            if one_by_one:
                # One that takes too long will do so again.
                deaths[current] += MAX_DEATHS if how == _TOO_LONG else 1
            one_by_one = True
            if deaths[current] < MAX_DEATHS:
                continue
            if current is None:
                last = part.first + len(part.inputs) - 1
                raise DataError(
                    f"part {part.number}, inputs {part.first} to {last}: the worker process {how} repeatedly, not at "
                    "a particular input; is there enough memory for the model?"
                )
            known[current] = f"the process {how} at this input"

    def close(self) -> str:
        """End the process, if there is one, and return how it ended."""
        if self._process is None:
            return "was not running"
        code = child_process.end(self._process)
        self._process = None
        if code == TIMEOUT_CODE:
            return _TOO_LONG
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def _request(self, part: Part, known: dict[int, Outcome | str] | None) -> Iterator[Any]:
        """Send a request, and yield the replies until the process dies."""
        try:
            if self._process is None:
                self._process = self._start()
                child_process.send(self._process.stdin, self._arguments)
            child_process.send(self._process.stdin, (part, known))
            while True:
                yield pickle.load(self._process.stdout)  # type: ignore[arg-type]
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            # It may have closed its pipes without having ended; its exit status is worth waiting for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[bytes]:
        threads = self._arguments[1].threads
        # Some libraries count the cores themselves.
        environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        return child_process.start(__spec__.name, str(os.getpid()), **environment)


def main() -> None:
    """Answer requests until the parent ends."""
    replies = child_process.take_over_output()
    threading.Thread(target=_watch, args=(int(sys.argv[1]),), daemon=True).start()
    try:
        _serve(sys.stdin.buffer, replies)
    except MotivNetError as error:
        child_process.send(replies, error)
    except (EOFError, BrokenPipeError):
        os._exit(0)  # without waiting for threads: the parent has ended


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    prepare_for_images()
    writer = PartWriter(*pickle.load(requests))
    while True:
        part, known = pickle.load(requests)
        if known is None:
            child_process.send(replies, writer.write(part))
        else:
            send = functools.partial(child_process.send, replies)
            send(writer.write_one_by_one(part, known, send))


def _watch(parent: int) -> None:
    """End this process when its parent has ended, as the current part would go on, or when an image takes too long."""
    while os.getppid() == parent:
        if time.monotonic() - min(TimedPredictor.began_s.copy().values(), default=math.inf) > TIMEOUT_S:
            os._exit(TIMEOUT_CODE)
        time.sleep(_CHECK_EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    main()
