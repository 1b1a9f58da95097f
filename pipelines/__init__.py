"""The algorithms: loops (the order of steps) and the formulas that they use.

Loops may use `attention`; formulas use neither loops nor attention. Nothing here uses ComfyUI,
graph files or progress bars.
"""
