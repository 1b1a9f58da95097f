"""A stand-in for torchaudio, so that ComfyUI starts where only the CPU build of torch is present.

The host imports the package while it starts and calls it only in its audio nodes, which the
tests do not use.
"""

__version__ = "0.0.0"
