"""The algorithms: loops (what happens next) over leaves (one family of formulas each).

Loops may use the leaves and `attention`; leaves know neither the loops, nor attention, nor each
other beyond the basic ones. Nothing here knows ComfyUI, files of a graph or progress bars.
"""
