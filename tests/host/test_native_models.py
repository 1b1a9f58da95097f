"""ComfyUI's own MODEL as a model of ReScore, in a host's process: see `native_checks.py`."""

import pytest
from rescore.shapeworld import wan
from rescore.tests.host.start import HERE, answers_of, checks_of
from rescore.tests.host.test_native_wan import folder, reads_the_width, widened

pytestmark = pytest.mark.host

SCRIPT = HERE / "native_checks.py"
CHECKS = [name for file in sorted(HERE.glob("native_checks_*.py")) for name in checks_of(file)]
__all__ = ["folder"]  # a fixture of the module it comes from


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory) -> dict[str, str]:
    """What went wrong in each check, "" where nothing did: all of them in one process."""
    work = tmp_path_factory.mktemp("native")
    transformer = wan.FOLDER / wan.TRANSFORMER
    if not reads_the_width(folder):
        widened(transformer, transformer := work / "wide.safetensors")
    return answers_of(SCRIPT, folder, transformer, wan.FOLDER / wan.VAE, work=work)


@pytest.mark.parametrize("name", CHECKS)
def test_native(found, name):
    assert not found[name], found[name]
