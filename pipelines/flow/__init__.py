"""Optical flow: how to compute and show it, warp along it, and smooth gradients with it.

A flow `[n, 2, h, w]` is in pixels of its own grid: channel 0 to the right, channel 1 down.
"""

from .fields import Flow, resize_flow, visibility, warp
from .smoothing import FlowSmoothing, smooth_along_flow

__all__ = ["Flow", "FlowSmoothing", "resize_flow", "smooth_along_flow", "visibility", "warp"]
