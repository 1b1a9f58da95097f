"""A MODEL of ComfyUI-AnimateDiff-Evolved as a model of ReScore: see `native_animatediff.py`.

Takes 8 GB of memory and some minutes, where the pack lies in the custom_nodes of the host.
"""

import pytest
from rescore.tests.host.start import HERE, answers_of, checks_of
from rescore.tests.host.test_native_wan import folder

pytestmark = pytest.mark.host

NAME = "ComfyUI-AnimateDiff-Evolved"
SCRIPT = HERE / "native_animatediff.py"
CHECKS = checks_of(SCRIPT)
__all__ = ["folder"]  # a fixture of the module it comes from


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory) -> dict[str, str]:
    """What went wrong in each check, "" where nothing did: all of them in one process."""
    if not (folder / "custom_nodes" / NAME).is_dir():
        pytest.skip(f"this host lacks {NAME} in custom_nodes")
    return answers_of(SCRIPT, folder, work=tmp_path_factory.mktemp("animatediff"))


@pytest.mark.parametrize("name", CHECKS)
def test_stable_diffusion_with_motion(found, name):
    assert not found[name], found[name]
