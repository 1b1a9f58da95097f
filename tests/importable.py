"""Run this file, in any interpreter, and `import rescore` finds the folder it lies in.

`conftest.py` runs it for the tests, the `fresh_python` fixture for the interpreters they start.
"""

import os
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class RescoreFinder:
    """Finds this folder as the package `rescore`, installed or not, whatever the folder is called.

    It stands first, so that the code under test is this folder's even when another copy of the pack
    is installed. It loads nothing by itself, so import hooks can be set up before or after it.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "rescore":
            return None
        return spec_from_file_location(
            name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )


# `python -m pytest` puts the working folder on the path: our `nodes` could then be imported as the
# top-level module that is ComfyUI's.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
sys.meta_path.insert(0, RescoreFinder)
