"""Measures of clips and edits: each a number, with its formula and where it comes from.

Clips are `[1, 3, f, H, W]` with pixels in 0..1. Nothing here loads a model; what needs one takes
what the model has computed.
"""
