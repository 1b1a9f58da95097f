"""Edits with a known answer: pairs of scenes, the exact edited clip and masks, and fixed suites."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .render import Rendering, render
from .scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    RADII,
    RGB,
    SHAPES,
    Scene,
    fits,
    sample_scene,
    travel_range,
)

_VALUES = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "background": BACKGROUNDS,
    "size": tuple(RADII),
    "motion": MOTIONS,
}
ATTRIBUTES = tuple(_VALUES)
SPLITS = ("test", "tune")
# "edits" mixes the edits that any text-guided method should manage; a suite of each kind follows.
SUITES = {"edits": ("colour", "shape", "background")} | {name: (name,) for name in ATTRIBUTES}

# Suites, tests and figures show scenes of seeds below this one; training draws from it upwards.
HELD_OUT_SEEDS = 1 << 30
_FIRST_SEED = {"test": 0, "tune": 1 << 28, "prompts": 1 << 29}
_SEEDS_PER_EDIT = 256  # scenes tried until one has room for the edit
_LARGEST_SUITE = (1 << 28) // (_SEEDS_PER_EDIT * len(ATTRIBUTES))


@dataclass(frozen=True)
class Edit:
    """Two scenes that differ in one attribute of the moving object or of the background."""

    source: Scene
    target: Scene
    attribute: str

    def __post_init__(self) -> None:
        if self.attribute not in ATTRIBUTES:
            raise ValueError(
                f"An edit changes one of {', '.join(ATTRIBUTES)}, not {self.attribute!r}."
            )


class EditClips(NamedTuple):
    """Everything that is known about an edit. Masks are `[f, h, w]` bool.

    `change` and `keep` share out all pixels: where the two clips differ at all, and where they are
    equal to the last bit. `paint` is what a user would paint as the edit mask: the whole object
    before and after for edits of the object, everything that shows some backdrop for edits of the
    background; `change` lies inside it.
    """

    source: Rendering
    target: Rendering
    change: Tensor
    keep: Tensor
    paint: Tensor
    object_mask: Tensor  # pixels that the moving object touches, before or after
    source_prompt: str
    target_prompt: str


def edited(edit: Edit) -> EditClips:
    """Render both sides of an edit, and where they differ."""
    source, target = render(edit.source), render(edit.target)
    change = (source.clip != target.clip).any(dim=-1)
    object_mask = (source.coverage > 0) | (target.coverage > 0)
    return EditClips(
        source=source,
        target=target,
        change=change,
        keep=~change,
        paint=_shows_backdrop(edit.source) if edit.attribute == "background" else object_mask,
        object_mask=object_mask,
        source_prompt=source.caption,
        target_prompt=target.caption,
    )


class SecondObject(NamedTuple):
    """A scene with its second object and without it, and the pixels that differ, `[f, h, w]`."""

    present: Rendering
    absent: Rendering
    change: Tensor


def second_object(scene: Scene) -> SecondObject:
    """The exact truth of removing the second object of a scene, and of adding it.

    Raises:
        ValueError: if the scene has none.
    """
    if scene.second is None:
        raise ValueError(f"The scene has no second object to remove or add: {scene}.")
    present, absent = render(scene), render(replace(scene, second=None))
    return SecondObject(present, absent, (present.clip != absent.clip).any(dim=-1))


def value_of(scene: Scene, attribute: str) -> str:
    """The word for an attribute of a scene."""
    return scene.background.pattern if attribute == "background" else getattr(scene, attribute)


def change_attribute(scene: Scene, attribute: str, value: str) -> Scene:
    """The scene with another colour, shape, background, size or motion, and all else as it was.

    A new background keeps its two colours. A new motion keeps the centre of the path; its length
    comes to lie where it lay between the shortest and the longest of the motion.
    """
    if attribute == "background":
        return replace(scene, background=replace(scene.background, pattern=value))
    if attribute == "motion":
        shortest, longest = travel_range(scene.motion)
        share = (scene.travel - shortest) / (longest - shortest)
        shortest, longest = travel_range(value)
        return replace(scene, motion=value, travel=shortest + share * (longest - shortest))
    return replace(scene, **{attribute: value})


def suite(
    name: str,
    n: int,
    *,
    frames: int = 8,
    split: str = "test",
    attributes: Sequence[str] | None = None,
) -> list[Edit]:
    """The first n edits of a fixed list; the same ones for ever, and never seen in training.

    `name` is "edits", which goes round colour, shape and background, or one attribute. `attributes`
    asks for others in its place. The k-th edit of an attribute is the same in every suite.
    Settings are tuned on the split "tune"; only "test" is reported.
    """
    if name not in SUITES:
        raise ValueError(f"There is no suite {name!r}; there are {', '.join(SUITES)}.")
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; there are {' and '.join(SPLITS)}.")
    attributes = SUITES[name] if attributes is None else tuple(attributes)
    if not attributes or not set(attributes) <= set(ATTRIBUTES):
        raise ValueError(
            f"Edits change some of {', '.join(ATTRIBUTES)}; {list(attributes)} was asked for."
        )
    if not 0 <= n <= _LARGEST_SUITE:
        raise ValueError(f"A suite has 0 to {_LARGEST_SUITE} edits, not {n}.")
    return [
        _edit(attributes[i % len(attributes)], i // len(attributes), frames, split)
        for i in range(n)
    ]


def prompts(n: int, *, frames: int = 8, second: bool | None = None) -> list[Scene]:
    """The first n of a fixed list of held-out scenes, to make clips from their captions.

    `second` asks for a second object in all of them or in none; by default one in four has one.
    """
    if not 0 <= n <= HELD_OUT_SEEDS // 2:
        raise ValueError(f"There are 0 to {HELD_OUT_SEEDS // 2} held-out prompts, not {n}.")
    first = _FIRST_SEED["prompts"]
    return [sample_scene(seed, frames=frames, second=second) for seed in range(first, first + n)]


def _edit(attribute: str, index: int, frames: int, split: str) -> Edit:
    """The edit of this index: what it edits into goes round all values, in a new order each time.

    The value is settled first and then a scene found that has room for it; the other way round,
    objects would shrink far more often than grow.
    """
    block = index * len(ATTRIBUTES) + ATTRIBUTES.index(attribute)
    first = _FIRST_SEED[split] + block * _SEEDS_PER_EDIT
    values = _VALUES[attribute]
    lap, place = divmod(index, len(values))
    order = np.random.default_rng([_FIRST_SEED[split], lap]).permutation(len(values))
    value = values[order[place]]
    for seed in range(first, first + _SEEDS_PER_EDIT):
        source = sample_scene(seed, frames=frames)
        taken = {value_of(source, attribute)}
        if attribute == "colour" and source.second is not None:
            taken.add(source.second.colour)  # a caption could no longer tell the two objects apart
        target = change_attribute(source, attribute, value)
        if value not in taken and fits(target):
            return Edit(source, target, attribute)
    raise AssertionError(f"no scene from {first} on has room for a {attribute} edit into {value}")


def _shows_backdrop(scene: Scene) -> Tensor:
    """Pixels in which a black and a white backdrop look different, `[f, h, w]`."""
    black: RGB = (0.0, 0.0, 0.0)
    white: RGB = (1.0, 1.0, 1.0)
    on_black, on_white = (
        render(replace(scene, background=replace(scene.background, pattern="plain", palette=both)))
        for both in ((black, black), (white, white))
    )
    return (on_black.clip != on_white.clip).any(dim=-1)
