"""Measures of clips and edits: each is a number, with its formula and its source.

Clips are `[1, 3, f, H, W]` with pixels in 0..1. Only LPIPS loads a model here; the other measures
take what a model has computed.
"""
