"""Inflation of image models, one-shot tuning, and how attention along time shifts features."""
