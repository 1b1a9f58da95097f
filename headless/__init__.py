"""Runs an API-format workflow without ComfyUI: the demo, tests and batch work.

`run_workflow` in `runner.py` is the Python interface, `python -m rescore.headless` the command.
What comes from a workflow is untrusted: nothing in it can execute code, read outside the input
folders or write outside the output folder.
"""
