"""What happens inside one attention layer, where the layers are, and how a change is installed.

A change is installed for the length of a `with` and taken out again, leaving exactly what was
there. Nothing here knows schedules, losses, the loop it serves or ComfyUI.
"""
