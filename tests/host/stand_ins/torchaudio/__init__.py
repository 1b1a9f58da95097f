"""A stand-in for torchaudio, so that ComfyUI starts where only the CPU build of torch is present.

The host imports it while it starts and calls it only in its audio nodes and models, which the
tests do not use.
"""

from stand_in import add_submodules

__version__ = "0.0.0"

add_submodules(__name__, ("functional", "transforms"))
