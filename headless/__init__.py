"""Runs an API-format workflow without ComfyUI: the demo, tests and batch work.

Reads untrusted JSON: nothing in a workflow can execute code, read outside its input folders or
write outside the output folder.
"""
