"""The edits behind the clips that come with the workflows: what they show, and the truth."""

import math
from dataclasses import replace

from .edits import Edit
from .scene import Background, Scene, StaticObject

_CIRCLE = Scene(
    shape="circle",
    colour="red",
    motion="right",
    background=Background("checker", ((0.38, 0.40, 0.44), (0.68, 0.70, 0.74)), width=10.0),
    x=32.0,
    y=34.0,
    travel=24.0,
)
_TRIANGLE = Scene(
    shape="triangle",
    colour="green",
    motion="bouncing",
    background=Background(
        "striped", ((0.36, 0.40, 0.44), (0.70, 0.66, 0.62)), width=12.0, angle=math.pi / 4
    ),
    x=33.0,
    y=32.0,
    travel=36.0,
)

_SLOW = replace(_CIRCLE, frames=29)  # as many as a cascade makes of eight keyframes

# File name in workflows/input, without its ending -> the edit the workflow makes of it.
SHOWCASE: dict[str, Edit] = {
    "red_circle": Edit(_CIRCLE, replace(_CIRCLE, colour="blue"), "colour"),
    "green_triangle": Edit(_TRIANGLE, replace(_TRIANGLE, shape="circle"), "shape"),
    "slow_circle": Edit(_SLOW, replace(_SLOW, colour="blue"), "colour"),
}
# The scene from which the second object is removed, and to which it is added.
TWO_OBJECTS = replace(
    _CIRCLE, size="small", y=46.0, second=StaticObject("square", "green", x=22.0, y=16.0)
)
FPS = 8
