"""Benchmarks of the field as manifests: published folders, read as their authors laid them out.

`python -m rescore.headless.manifest` is the command; what it writes, `rescore.headless.batch` runs.
"""
