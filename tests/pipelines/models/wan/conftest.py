"""A tiny Wan folder, and what the pack loads from it."""

import pytest
from rescore.pipelines.models.wan.load import load_wan
from tiny_wan import write_tiny_wan


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory):
    return write_tiny_wan(tmp_path_factory.mktemp("models") / "tiny-wan")


@pytest.fixture(scope="session")
def wan(wan_folder):
    return load_wan(wan_folder)
