"""What a process does first that was started to work for another one."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


def begin_child() -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the parent, and end with it.

    A parent that is killed cannot end its pool, whose processes would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in processes that multiprocessing started"
    connection.wait([parent.sentinel])
    os._exit(1)
