"""Families of video models in a host's process, each at a small size: see `native_families.py`."""

import ast

import pytest
from rescore.tests.host.start import HERE, answers_of, checks_of
from rescore.tests.host.test_native_wan import folder

pytestmark = pytest.mark.host

SCRIPT = HERE / "native_families.py"
TREE = ast.parse(SCRIPT.read_text("utf-8"))
CHECKS = checks_of(SCRIPT)
FAMILIES = [
    call.args[0].value
    for call in ast.walk(TREE)
    if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Family"
]
__all__ = ["folder"]  # a fixture of the module it comes from


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory) -> dict[str, str]:
    """What went wrong in each check, "" where nothing did: all of them in one process."""
    return answers_of(SCRIPT, folder, work=tmp_path_factory.mktemp("families"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CHECKS)
def test_native(found, name, family):
    wrong = found[f"{name}[{family}]"]
    if "This light tae doesn't support encoding" in wrong:
        pytest.skip("the small autoencoder of Wan 2.2 cannot encode in this ComfyUI")
    assert not wrong, wrong
