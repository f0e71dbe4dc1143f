"""A `PartWriter` in a process of its own, so that an image which kills the process costs nothing but that process.

What Python can catch, `PartWriter` catches. A library that crashes, or a system that ends the process for want of
memory, it cannot. Then the part is done again in a new process, one input at a time, each named before it is tried;
an input at which the process dies `MAX_DEATHS` times becomes `failed`, and all others have their results.

    python -m motivnet.bulk.worker PARENT

is that process: pickled requests on its standard input, pickled replies on its standard output, for nobody but
`Worker`. It ends with its parent, however that ends.
"""

import collections
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from motivnet.bulk.output_folder import Folder
from motivnet.bulk.parts import BulkSettings, Counts, Outcome, Part, PartWriter
from motivnet.errors import DataError, MotivNetError

# Of one input tried alone. Once may be bad luck: somebody killed the process.
MAX_DEATHS = 2
_LOOK_FOR_PARENT_EVERY_S = 0.5


class Worker:
    """Turn parts into files, in another process, which holds the model."""

    def __init__(self, settings: BulkSettings, folder: Folder) -> None:
        """Take notes; the process begins with the first part."""
        self._settings = settings
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, part: Part) -> Counts:
        """Predict a part, and write its file.

        Raises:
            DataError: if the process dies again and again, and no single input is to blame.
            MotivNetError: what `PartWriter` raises.
        """
        known: dict[int, Outcome | str] = {}
        deaths: collections.Counter[int | None] = collections.Counter()
        one_by_one = False
        while True:
            under_way: int | None = None
            for reply in self._ask(part, known if one_by_one else None):
                match reply:
                    case Counts():
                        return reply
                    case MotivNetError():
                        self.close()
                        raise reply
                    case int():
                        under_way = reply
                    case (position, outcome):
                        known[position] = outcome
                        under_way = None
            how = self.close()
            if one_by_one:
                deaths[under_way] += 1
            one_by_one = True
            if deaths[under_way] < MAX_DEATHS:
                continue
            if under_way is None:
                last = part.first + len(part.inputs) - 1
                raise DataError(
                    f"part {part.number}, inputs {part.first} to {last}: its process {how}, between inputs or before "
                    "the first, again and again; is there memory enough for the model?"
                )
            known[under_way] = f"the process {how} at this input"

    def close(self) -> str:
        """End the process, if there is one; say how it ended."""
        if self._process is None:
            return "was not there"
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        code = self._process.wait()
        self._process = None
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def _ask(self, part: Part, known: dict[int, Outcome | str] | None) -> Iterator[Any]:
        """Send a request; give the replies until the process dies."""
        try:
            if self._process is None:
                self._process = self._start()
                _send(self._process.stdin, (self._settings, self._folder))
            _send(self._process.stdin, (part, known))
            while True:
                yield pickle.load(self._process.stdout)  # type: ignore[arg-type]
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            # It may have closed its pipes and still be on its way out; how it ends is worth waiting for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
        if self._settings.threads is not None:
            # Face detectors count cores themselves.
            environment["OMP_NUM_THREADS"] = str(self._settings.threads)
        # -P: what happens to lie in the current folder is no library.
        command = [sys.executable, "-P", "-m", __spec__.name, str(os.getpid())]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _send(pipe: Any, message: object) -> None:
    pickle.dump(message, pipe)
    pipe.flush()


def main() -> None:
    """Answer requests until there are no more."""
    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    # What libraries print is no reply.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _serve(sys.stdin.buffer, replies)
    except MotivNetError as error:
        _send(replies, error)
    except (EOFError, BrokenPipeError):
        # The parent is gone, and with it whoever would want the rest.
        os._exit(0)


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    import cv2

    cv2.setNumThreads(1)
    settings, folder = pickle.load(requests)
    writer = PartWriter(settings, folder)
    while True:
        part, known = pickle.load(requests)
        if known is None:
            _send(replies, writer.write(part))
        else:
            _send(replies, writer.write_one_by_one(part, known, lambda message: _send(replies, message)))


def _end_with(parent: int) -> None:
    """End this process when its parent has: a killed parent closes the pipes, but a part under way goes on."""
    while os.getppid() == parent:
        time.sleep(_LOOK_FOR_PARENT_EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    main()
