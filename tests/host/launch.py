"""Runs ComfyUI's main.py for as long as the process that started it lives.

The starter holds the other end of standard input. When it ends, however it ends, that pipe closes
and the host goes too, so that no test run leaves one behind.

usage: python launch.py PATH_TO_MAIN ARGUMENTS...
"""

import os
import runpy
import sys
import threading
from pathlib import Path


def follow_starter() -> None:
    """Waits for the pipe to close, then ends this process at once."""
    # Not through sys.stdin, whose lock would turn an error of main.py into a crash at shutdown.
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=follow_starter, daemon=True).start()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
