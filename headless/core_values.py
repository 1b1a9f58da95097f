"""Stand-ins for the host's value nodes: a constant of each kind, and showing anything as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import ClassVar


class PrimitiveString:
    """A text."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "give"
    CATEGORY = "utils/primitive"
    OPTIONS: ClassVar[Mapping[str, object]] = {}

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (cls.RETURN_TYPES[0], cls.OPTIONS)}}

    def give(self, value):
        return (value,)


class PrimitiveStringMultiline(PrimitiveString):
    """A text of several lines."""

    OPTIONS: ClassVar[Mapping[str, object]] = {"multiline": True}


class PrimitiveInt(PrimitiveString):
    """A whole number."""

    RETURN_TYPES = ("INT",)
    OPTIONS: ClassVar[Mapping[str, object]] = {
        "min": -sys.maxsize,
        "max": sys.maxsize,
        "control_after_generate": True,
    }


class PrimitiveFloat(PrimitiveString):
    """A number."""

    RETURN_TYPES = ("FLOAT",)
    OPTIONS: ClassVar[Mapping[str, object]] = {"min": -sys.maxsize, "max": sys.maxsize, "step": 0.1}


class PrimitiveBoolean(PrimitiveString):
    """True or false."""

    RETURN_TYPES = ("BOOLEAN",)


class PreviewAny:
    """Shows any value as text."""

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True
    CATEGORY = "utils"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": ("*", {})}}

    def show(self, source=None):
        if isinstance(source, str):
            return {"ui": {"text": [source]}}
        try:
            return {"ui": {"text": [json.dumps(source, indent=4)]}}
        except (TypeError, ValueError):
            return {"ui": {"text": [str(source)]}}
