"""Where nodes write, and where they look for what they have written."""

from pathlib import Path

import rescore.nodes.host as host
from rescore.headless.runner import run_workflow


class Writer:
    """A node that writes a file the way nodes of the pack do."""

    RETURN_TYPES = ()
    FUNCTION = "write"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def write(self):
        folder = host.own_folders("rescore_things")[0]
        folder.mkdir(parents=True)
        (folder / "thing.txt").write_text("here")
        return ()


def test_a_run_without_the_host_writes_to_its_own_folder(tmp_path):
    workflow = {"1": {"class_type": "Writer", "inputs": {}}}
    run_workflow(workflow, out=tmp_path / "out", node_classes={"Writer": Writer})
    assert (tmp_path / "out" / "rescore_things" / "thing.txt").read_text() == "here"
    assert host.output_folder() == Path("output")


def test_files_are_found_where_they_were_written_and_among_the_models(tmp_path, monkeypatch):
    monkeypatch.setenv("RESCORE_MODELS", str(tmp_path / "models"))
    for place in ("out", "models"):
        folder = tmp_path / place / "rescore_things"
        folder.mkdir(parents=True)
        (folder / f"{place}.txt").write_text("")
        (folder / "other.png").write_text("")
    with host.writing_to(tmp_path / "out"):
        assert host.own_files_in("rescore_things", ".txt") == ["models.txt", "out.txt"]
        assert host.own_folders("rescore_things")[0] == tmp_path / "out" / "rescore_things"
