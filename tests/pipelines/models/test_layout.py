"""Model folders are recognised by their own JSON, and what is wrong with one is said usefully."""

import json
import sys
from pathlib import Path

import pytest
from rescore.pipelines.models.layout import (
    ModelError,
    check_folder,
    contained,
    find_model,
    kind_of,
    list_models,
)
from tiny_models import write_tiny_adapter


@pytest.fixture
def folder(tmp_path):
    """`folder(name, unet, **other)`: a folder with only a model_index.json, and its parts empty."""

    def make(name: str, unet: str, **other) -> Path:
        path = tmp_path / name
        index = {
            "unet": ["diffusers", unet],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            **other,
        }
        for part in (*index, "scheduler"):
            (path / part).mkdir(parents=True)
        (path / "model_index.json").write_text(json.dumps(index), "utf-8")
        return path

    return make


def test_kinds_are_told_apart(models, tmp_path):
    assert kind_of(models / "t2v") == "text-to-video"
    assert kind_of(models / "sd") == "image"
    assert kind_of(models / "motion") == "motion-adapter"
    assert kind_of(models / "t2v" / "unet") is None
    assert kind_of(models / "absent") is None
    for index in ("[]", "{}", '{"unet": null}', '{"unet": ["diffusers"]}', "{", '"unet"'):
        (tmp_path / "model_index.json").write_text(index, "utf-8")
        assert kind_of(tmp_path) is None


def test_models_are_listed_by_kind_with_their_folders(folder, tmp_path):
    folder("zeroscope", "UNet3DConditionModel")
    folder("video/modelscope", "UNet3DConditionModel")
    folder("sd", "UNet2DConditionModel")
    folder("a/b/c/d", "UNet2DConditionModel")  # too deep
    (tmp_path / "empty").mkdir()
    write_tiny_adapter(tmp_path / "v3")
    roots = [tmp_path, tmp_path / "absent"]
    assert list_models(roots, "text-to-video") == ["video/modelscope", "zeroscope"]
    assert list_models(roots, "image") == ["sd"]
    assert list_models(roots, "motion-adapter") == ["v3"]
    assert find_model("video/modelscope", roots, "text-to-video").is_dir()


def test_the_first_root_that_has_a_model_wins(folder, tmp_path):
    folder("two/sd", "UNet2DConditionModel")
    roots = [tmp_path / "one", tmp_path / "two"]
    assert find_model("sd", roots, "image") == tmp_path / "two" / "sd"
    folder("one/sd", "UNet2DConditionModel")
    assert find_model("sd", roots, "image") == tmp_path / "one" / "sd"


def test_a_missing_model_is_told_with_where_and_how_to_get_it(folder, tmp_path):
    folder("mine", "UNet3DConditionModel")
    with pytest.raises(ModelError) as caught:
        find_model("zeroscope_v2_576w", [tmp_path], "text-to-video")
    text = str(caught.value)
    assert f"{tmp_path / 'zeroscope_v2_576w'} does not exist" in text
    assert "found of its kind: mine" in text
    assert "Expected a ModelScope or ZeroScope model: a diffusers folder" in text
    assert f"Put it into {tmp_path};" in text
    assert text.endswith(f"fetch.py zeroscope_v2_576w --into {tmp_path}")
    assert sys.executable in text
    with pytest.raises(ModelError, match="this downloads zeroscope_v2_576w: "):
        find_model("unknown", [tmp_path], "text-to-video")  # a model of that kind is offered
    with pytest.raises(ModelError, match="No model folder is set up"):
        find_model("sd", [], "image")


@pytest.mark.parametrize("name", ["../secret", "sd/../../secret", "..", "/etc"])
def test_a_name_that_leads_out_of_the_roots_is_refused(tmp_path, name):
    root = tmp_path / "models"
    root.mkdir()
    (tmp_path / "secret").mkdir()
    with pytest.raises(ModelError, match="lies outside the model folders"):
        find_model(name, [root], "image")
    with pytest.raises(ModelError, match="models are read from those only"):
        contained(root / name, [root])


def test_a_path_inside_a_root_is_returned_without_detours(tmp_path):
    assert contained(tmp_path / "a" / ".." / "b", [tmp_path]) == tmp_path / "b"
    assert contained(tmp_path / "x", [tmp_path / "other", tmp_path]) == tmp_path / "x"
    with pytest.raises(ModelError):  # a sibling whose name begins like the root's
        contained(tmp_path.with_name(tmp_path.name + "-other"), [tmp_path])
    with pytest.raises(ModelError, match="none is set up"):
        contained(tmp_path, [])


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_in_a_root_may_lead_to_another_disk(folder, tmp_path):
    elsewhere = folder("elsewhere/sd", "UNet2DConditionModel")
    root = tmp_path / "models"
    root.mkdir()
    (root / "linked").symlink_to(elsewhere)
    assert find_model("linked", [root], "image") == root / "linked"
    assert list_models([root], "image") == ["linked"]


def test_parts_are_found_where_they_lie(folder, tmp_path):
    path = folder("sd", "UNet2DConditionModel")
    (path / "vae").rmdir()
    with pytest.raises(ModelError, match="has no folder vae"):
        check_folder(path, "image", {})
    (tmp_path / "shared").mkdir()
    parts = check_folder(path, "image", {"vae": tmp_path / "shared"})
    assert parts["vae"] == tmp_path / "shared" and parts["unet"] == path / "unet"


@pytest.mark.parametrize(
    ("unet", "other", "complaint"),
    [
        ("UNet3DConditionModel", {}, "is a model of kind text-to-video in model_index"),
        ("PriorTransformer", {}, "names PriorTransformer as its unet in model_index"),
        ("UNet2DConditionModel", {"vae": ["diffusers", "VQModel"]}, "names VQModel as its vae"),
        (
            "UNet2DConditionModel",
            {"text_encoder": ["transformers", "T5EncoderModel"]},
            "T5EncoderModel as its text_encoder and not a CLIPTextModel",
        ),
        ("UNet2DConditionModel", {"tokenizer": None}, "names nothing as its tokenizer"),
    ],
)
def test_another_layout_is_told(folder, unet, other, complaint):
    with pytest.raises(ModelError, match=complaint) as caught:
        check_folder(folder("sd", unet, **other), "image", {})
    assert "Expected a Stable Diffusion 1.x model" in str(caught.value)


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(ModelError, match="absent does not exist"):
        check_folder(tmp_path / "absent", "image", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="file is a file"):
        check_folder(tmp_path / "file", "image", {})
    with pytest.raises(ModelError, match=r"has no model_index\.json"):
        check_folder(tmp_path, "image", {})
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match=r"has an unreadable model_index\.json"):
        check_folder(tmp_path, "image", {})
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(ModelError, match="that is no JSON object"):
        check_folder(tmp_path, "image", {})


def test_lists_of_models_cost_no_torch(fresh_python, models):
    done = fresh_python(
        "import sys; from pathlib import Path\n"
        "from rescore.pipelines.models.layout import list_models\n"
        "print(list_models([Path(sys.argv[1])], 'image'))\n"
        "assert not {'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)",
        str(models),
    )
    assert (done.returncode, done.stdout.strip()) == (0, "['sd', 'sd-v']"), done.stderr
