"""Modules that run as child processes: pickled requests on their standard input, pickled replies on their output.

Own code, as the processes of `concurrent.futures` and Pebble import the main module of the program, which may be what
starts them.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from typing import Any, BinaryIO


def start(module: str, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
    """Start a module, with what this process can import, and with entries of the environment beside its own."""
    own = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    # -P: modules in the current folder must not shadow libraries.
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own | environment)


def end(process: "subprocess.Popen[bytes]") -> int:
    """Kill a process, close its pipes, and return its exit code."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    return process.wait()


def send(pipe: Any, message: object) -> None:
    """Send a request or a reply."""
    pickle.dump(message, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def take_over_output() -> BinaryIO:
    """Prepare this process, which is such a child, and return where its replies go."""
    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print must not mix with the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies
