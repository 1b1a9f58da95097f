"""Cascades of pixels (Show-1, DeepFloyd IF): keyframes, frames between, super-resolution."""
