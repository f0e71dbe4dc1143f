import os
import sys

import pytest

from motivnet.machine import KEEP_STEPS, keep_freed_memory, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_only_cores_that_may_be_used_count():
    before = os.sched_getaffinity(0)
    assert usable_cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_glibc_takes_the_options_and_other_systems_are_left_alone(monkeypatch):
    taken = {}

    class Glibc:
        def __init__(self, name):
            pass

        def mallopt(self, option, value):
            taken[option] = value

    monkeypatch.setattr("ctypes.CDLL", Glibc)
    monkeypatch.setattr(sys, "platform", "win32")
    keep_freed_memory()
    assert not taken
    monkeypatch.setattr(sys, "platform", "linux")
    keep_freed_memory()
    assert taken == {-3: 32 << 20, -1: 64 << 20}
    taken.clear()
    keep_freed_memory(KEEP_STEPS)
    assert taken == {-1: 2**31 - 1, -2: 64 << 20, -4: 0}
