"""The algorithms, a room for each family: loops (what happens next) over formulas.

Loops may look into `attention`; formulas know neither loops nor attention. Nothing here knows
ComfyUI, files of a graph or progress bars.
"""
