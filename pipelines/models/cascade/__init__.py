"""Cascades of pixels (Show-1, DeepFloyd IF): keyframes, the frames between them, super-resolution."""
