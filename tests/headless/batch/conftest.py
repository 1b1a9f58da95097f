"""A local Ray of two CPUs for the whole session, and a models folder for its workers."""

import logging
import os
from pathlib import Path

import pytest
from grey_batch import QUIET_RAY
from rescore.tests.host.start import place_pack
from tiny_clip import write_tiny_clip


@pytest.fixture(scope="session")
def worker_models(tmp_path_factory) -> Path:
    """The models folder of the workers: a tiny CLIP."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_clip(folder / "clip_vision" / "tiny")
    return folder


@pytest.fixture(scope="session")
def cluster(root, worker_models, tmp_path_factory):
    """Ray with two CPUs, whose workers import the code under test."""
    ray = pytest.importorskip("ray", reason="Ray has no wheel for this Python and system")
    site = tmp_path_factory.mktemp("site")
    place_pack(root, site)
    before = os.environ.copy()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(site), *filter(None, [before.get("PYTHONPATH")])]
    )
    os.environ |= {"RESCORE_MODELS": str(worker_models), **QUIET_RAY}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    os.environ.clear()
    os.environ |= before
    yield ray
    ray.shutdown()
