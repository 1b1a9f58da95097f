"""MODELs of other packs' loaders as models of ReScore: see `native_packs.py`."""

import pytest
from rescore.shapeworld import wan
from rescore.tests.host.start import HERE, answers_of, checks_of
from rescore.tests.host.test_native_wan import folder, widened

pytestmark = pytest.mark.host

SCRIPT = HERE / "native_packs.py"
CHECKS = checks_of(SCRIPT)
__all__ = ["folder"]  # a fixture of the module it comes from


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory) -> dict[str, str]:
    """What went wrong in each check, "" where nothing did: all of them in one process."""
    work = tmp_path_factory.mktemp("packs")
    wide = work / "wide.safetensors"  # files of GGUF do not tell how wide texts are
    widened(wan.FOLDER / wan.TRANSFORMER, wide)
    return answers_of(SCRIPT, folder, wide, wan.FOLDER / wan.VAE, work=work)


@pytest.mark.parametrize("name", CHECKS)
def test_a_model_of_another_pack(found, name):
    if found[name].startswith("lacks"):
        pytest.skip(f"this host {found[name]}")
    assert not found[name], found[name]
