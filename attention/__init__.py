"""Changes of attention: what they compute, where the layers are, and how they are installed.

A change is installed for the length of a `with`. After that, the model is exactly as before.
Nothing here uses noise schedules, losses, loops or ComfyUI.
"""
