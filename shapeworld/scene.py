"""What a shape-world clip shows, as plain data: the scene, its caption, and how scenes are drawn.

Lengths are pixels of the 64 x 64 canvas, x to the right, y downwards; the centre of the pixel in
column j and row i lies at (j + 0.5, i + 0.5).
"""

import colorsys
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

CANVAS = 64
SHAPES = ("circle", "square", "triangle", "ring")
MOTIONS = ("right", "left", "up", "down", "bouncing", "circling")
BACKGROUNDS = ("plain", "striped", "checker", "gradient")
RADII = {"small": 8.0, "medium": 11.0, "large": 14.0}

RGB: TypeAlias = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (0.86, 0.14, 0.14),
    "yellow": (0.93, 0.84, 0.14),
    "green": (0.14, 0.68, 0.24),
    "cyan": (0.14, 0.80, 0.84),
    "blue": (0.18, 0.28, 0.90),
    "purple": (0.68, 0.18, 0.84),
}

# Path length in pixels over the whole clip, whatever its number of frames.
_TRAVEL = {
    "right": (16, 26),
    "left": (16, 26),
    "up": (16, 26),
    "down": (16, 26),
    "bouncing": (28, 44),
    "circling": (38, 52),
}
_DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
_CIRCLING_ANGLE = math.radians(300)


@dataclass(frozen=True)
class Background:
    """A static backdrop: its pattern, two muted colours, and where the pattern lies."""

    pattern: str
    palette: tuple[RGB, RGB]
    width: float = 8.0  # of a stripe or checker cell, pixels
    angle: float = 0.0  # direction in which stripes alternate and gradients run, radians
    offset: tuple[float, float] = (0.0, 0.0)  # shift of the pattern, pixels


@dataclass(frozen=True)
class StaticObject:
    """A second object that stays where it is, clear of the moving one."""

    shape: str
    colour: str
    x: float
    y: float
    size: str = "small"


@dataclass(frozen=True)
class Scene:
    """One object moving over a backdrop; everything `render` needs, and nothing else.

    `x`, `y` is the middle of the object's path, for circling the centre of the circle. `travel` is
    the length of that path in pixels, so the speed is `travel / (frames - 1)` pixels a frame.
    `phase` is the angle at which circling starts, in radians.

    What no model was trained on: `pan` is how far a moving camera lets the backdrop and the second
    object run over the clip, in pixels to the right and downwards; the object's path stays as it is
    seen on the canvas. `texture`, 0 to 1, is the share of its brightness that everything loses in
    the darkest spots of a fixed pattern, which moves with what it lies on.
    """

    shape: str
    colour: str
    motion: str
    background: Background
    x: float
    y: float
    travel: float
    size: str = "medium"
    phase: float = 0.0
    frames: int = 8
    second: StaticObject | None = None
    pan: tuple[float, float] = (0.0, 0.0)
    texture: float = 0.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("shape", self.shape, SHAPES),
            ("colour", self.colour, tuple(COLOURS)),
            ("motion", self.motion, MOTIONS),
            ("size", self.size, tuple(RADII)),
            ("background", self.background.pattern, BACKGROUNDS),
        ):
            if value not in known:
                raise ValueError(
                    f"The shape world has no {name} {value!r}; it has {', '.join(known)}."
                )
        if not 2 <= self.frames <= 32:
            raise ValueError(f"A shape-world clip has 2 to 32 frames, not {self.frames}.")
        if not 0 <= self.texture <= 1:
            raise ValueError(f"A texture takes 0 to 1 of the brightness, not {self.texture}.")

    @property
    def radius(self) -> float:
        return RADII[self.size]


def path(scene: Scene) -> np.ndarray:
    """Centre of the moving object in every frame, `[f, 2]` as (x, y) in pixels.

    right, left, up, down move at constant speed; bouncing falls and rises again under constant
    acceleration; circling runs through 300 degrees, clockwise on the screen.
    """
    u = np.linspace(0.0, 1.0, scene.frames)
    if scene.motion == "bouncing":
        # Down and up again: the path has twice the length of the drop.
        drop = scene.travel / 2
        offsets = np.stack([np.zeros_like(u), drop * (0.5 - 4 * u * (1 - u))], axis=1)
        offsets[:, 1] *= -1
    elif scene.motion == "circling":
        radius = scene.travel / _CIRCLING_ANGLE
        angle = scene.phase + _CIRCLING_ANGLE * u
        offsets = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        offsets = scene.travel * (u[:, None] - 0.5) * np.array(_DIRECTIONS[scene.motion])
    return np.array([scene.x, scene.y]) + offsets


def backdrop_path(scene: Scene) -> np.ndarray:
    """How far the backdrop has moved in every frame, `[f, 2]` as (x, y) in pixels.

    It runs at constant speed, and lies where the scene says in the middle of the clip.
    """
    return (np.linspace(0.0, 1.0, scene.frames)[:, None] - 0.5) * np.array(scene.pan)


def caption(scene: Scene, *, motion: bool = True) -> str:
    """The one caption of a scene, such as "a small red circle moving right on a plain background".

    A medium size goes unsaid. With `motion=False` the movement is left out: the caption of a frame.
    """
    words = ["a", *_adjectives(scene.size), scene.colour, scene.shape]
    if motion:
        words += [scene.motion] if scene.motion.endswith("ing") else ["moving", scene.motion]
    words += ["on", "a", scene.background.pattern, "background"]
    if scene.second is not None:
        words += ["beside", "a", scene.second.colour, scene.second.shape]
    return " ".join(words)


def _adjectives(size: str) -> list[str]:
    return [] if size == "medium" else [size]


def margin(size: str) -> float:
    """How far from the border the centre of an object of this size must stay, in pixels."""
    return 1.25 * RADII[size] + 1.0  # a triangle reaches 1.25 radii up from its centre


def fits(scene: Scene) -> bool:
    """Whether the object stays on the canvas in all frames and clear of the second object."""
    centres, edge = path(scene), margin(scene.size)
    if centres.min() < edge or centres.max() > CANVAS - edge:
        return False
    if scene.second is None:
        return True
    others = np.array([scene.second.x, scene.second.y]) + backdrop_path(scene)
    apart = np.hypot(*(centres - others).T)
    return bool(apart.min() > edge + margin(scene.second.size))


def _sample_background(generator: np.random.Generator, pattern: str | None) -> Background:
    """A backdrop with two random muted colours that differ clearly in brightness."""
    dark, light = generator.uniform(0.25, 0.45), generator.uniform(0.6, 0.8)
    values = [dark, light] if generator.random() < 0.5 else [light, dark]
    palette = tuple(
        colorsys.hsv_to_rgb(generator.random(), generator.uniform(0.0, 0.25), value)
        for value in values
    )
    drawn = str(generator.choice(BACKGROUNDS))
    pattern = pattern or drawn
    steps = 8 if pattern == "gradient" else 4
    width = float(generator.choice([8, 10, 12]))
    return Background(
        pattern=pattern,
        palette=palette,
        width=width,
        angle=0.0 if pattern == "checker" else math.pi * 2 / 8 * int(generator.integers(steps)),
        offset=tuple(generator.uniform(0, 2 * width, size=2).tolist()),
    )


def sample_scene(
    seed: int,
    *,
    frames: int = 8,
    second: bool | None = None,
    motion: str | None = None,
    background: str | None = None,
) -> Scene:
    """A random scene in which everything stays on the canvas; the same seed gives the same scene.

    `second` asks for a second, static object or for none; by default one scene in four has one.
    `motion` and `background` ask for one of the `MOTIONS` and `BACKGROUNDS`; by default all are
    equally frequent. All else that fits what is asked for stays as the seed would have it.
    """
    generator = np.random.default_rng(seed)
    if second is None:
        second = generator.random() < 0.25
    # What is shown is drawn once, so that every attribute is equally frequent; where it lies is
    # drawn again until it fits.
    drawn = str(generator.choice(MOTIONS))
    motion = motion or drawn
    shape, other_shape = generator.choice(SHAPES, size=2).tolist()
    colour, other_colour = generator.choice(list(COLOURS), size=2, replace=False).tolist()
    # Beside a second object, a large one would hardly ever find room to move.
    size = str(generator.choice(["small", "medium"] if second else list(RADII)))
    backdrop = _sample_background(generator, background)
    edge, edge_second = margin(size), margin("small")
    while True:
        companion = None
        if second:
            x, y = generator.uniform(edge_second, CANVAS - edge_second, size=2).tolist()
            companion = StaticObject(other_shape, other_colour, x, y)
        scene = Scene(
            shape=shape,
            colour=colour,
            motion=motion,
            background=backdrop,
            x=float(generator.uniform(edge, CANVAS - edge)),
            y=float(generator.uniform(edge, CANVAS - edge)),
            travel=float(generator.uniform(*_TRAVEL[motion])),
            size=size,
            phase=float(generator.uniform(0, 2 * math.pi)),
            frames=frames,
            second=companion,
        )
        if fits(scene):
            return scene


def travel_range(motion: str) -> tuple[int, int]:
    """Shortest and longest path of a motion over a clip, in pixels."""
    return _TRAVEL[motion]
