"""Masks from ComfyUI's own SAM 3: see `native_sam3.py`."""

import pytest
from rescore.tests.host.start import HERE, answers_of, checks_of
from rescore.tests.host.test_native_wan import folder

pytestmark = [pytest.mark.host, pytest.mark.slow]

SCRIPT = HERE / "native_sam3.py"
__all__ = ["folder"]  # a fixture of the module it comes from


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory) -> dict[str, str]:
    """What went wrong in each check, "" where nothing did: all of them in one process."""
    if not (folder / "comfy_extras" / "nodes_sam3.py").exists():
        pytest.skip("this ComfyUI has no SAM 3")
    return answers_of(SCRIPT, folder, work=tmp_path_factory.mktemp("sam3"))


@pytest.mark.parametrize("name", checks_of(SCRIPT))
def test_sam_3(found, name):
    assert not found[name], found[name]
