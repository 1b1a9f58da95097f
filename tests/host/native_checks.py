"""What ComfyUI's own MODEL does as a model of ReScore, in a host's process without its server.

usage: python native_checks.py COMFYUI TRANSFORMER VAE FOUND --cpu

Every function whose name begins with `check` in the files native_checks_*.py beside this one is
run; FOUND becomes a JSON file that says of each what went wrong, or nothing.
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    arguments = sys.argv[1:5]
    sys.path.insert(0, str(Path(arguments[0]).resolve()))
    del sys.argv[1:5]  # what is left is for the host, which reads the command line on import
    import comfy.options

    comfy.options.enable_args_parsing()
    import native_start  # beside this file

    native_start.arguments = arguments
    checks = {}
    for file in sorted(Path(__file__).parent.glob("native_checks_*.py")):
        checks |= vars(importlib.import_module(file.stem))
    native_start.run_checks(checks, arguments[3])


if __name__ == "__main__":
    main()
