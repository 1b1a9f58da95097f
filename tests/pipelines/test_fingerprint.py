"""Names of what shapes a result: equal for equals, and another for every difference."""

from dataclasses import dataclass, field

import pytest
import torch
from rescore.pipelines.fingerprint import fingerprint


@dataclass(frozen=True, eq=False)
class Setting:
    size: tuple[int, int] | None = (3, 5)
    mask: torch.Tensor = field(default_factory=lambda: torch.arange(6.0).view(2, 3))


@dataclass(frozen=True, eq=False)
class Other(Setting):
    pass


def test_equals_have_one_name():
    assert fingerprint(Setting(), {"a": [1, 2.0]}) == fingerprint(Setting(), {"a": [1, 2.0]})
    with torch.inference_mode():
        made_there = Setting(mask=torch.arange(6.0).view(3, 2).mT.contiguous().mT)
    assert fingerprint(made_there) == fingerprint(Setting(mask=torch.arange(6.0).view(3, 2)))
    assert len(fingerprint()) == 16


def test_every_difference_makes_another_name():
    tensor = torch.arange(6.0).view(2, 3)
    things = [
        (), (None,), ("",), ("None",), (0,), (0.0,), (False,), (-0.0,), ("ab", "c"), ("a", "bc"),
        (("a",), "b"), (("a", "b"),), ("a", "b"), ([], "a", "b"), ({"a": "b"},), ({"b": "a"},),
        (tensor,), (tensor.view(3, 2),), (tensor.double(),), (tensor.bfloat16(),), (tensor[:1],),
        (tensor + torch.tensor([0, 0, 1e-6]),), (torch.tensor(1.0),), (torch.tensor([1.0]),),
        (torch.zeros(0, 3),), (torch.tensor(True),), (Setting(),), (Setting(None),), (Other(),),
        (Setting(mask=-tensor),), ((3, 5),),
    ]  # fmt: skip
    names = [fingerprint(*thing) for thing in things]
    assert len(set(names)) == len(things)


def test_what_could_differ_unseen_has_none():
    with pytest.raises(TypeError, match="object has no fingerprint"):
        fingerprint((1, [object()]))
