"""The download command takes what the loaders read; the network itself is not tried here."""

import shlex
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from rescore.pipelines.models import fetch

ZEROSCOPE = """.gitattributes README.md model_index.json scheduler/scheduler_config.json
text_encoder/config.json text_encoder/pytorch_model.bin tokenizer/merges.txt
tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json
unet/config.json unet/diffusion_pytorch_model.bin vae/config.json
vae/diffusion_pytorch_model.bin zs2_576w/open_clip_pytorch_model.bin
zs2_576w/text2video_pytorch_model.pth""".split()


@pytest.mark.parametrize(
    ("names", "whole", "half"),
    [
        ("model.safetensors pytorch_model.bin", "model.safetensors", "model.safetensors"),
        (
            "model.safetensors model.fp16.safetensors pytorch_model.bin pytorch_model.fp16.bin",
            "model.safetensors",
            "model.fp16.safetensors",
        ),
        (
            "diffusion_pytorch_model.fp16.safetensors diffusion_pytorch_model.bin config.json",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.fp16.safetensors",
        ),
        (
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.bin",
        ),
        (
            "diffusion_pytorch_model-00001-of-00002.safetensors "
            "diffusion_pytorch_model-00002-of-00002.safetensors diffusion_pytorch_model.fp16.bin "
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model-00001-of-00002.safetensors "
            "diffusion_pytorch_model-00002-of-00002.safetensors",
            "diffusion_pytorch_model-00001-of-00002.safetensors "
            "diffusion_pytorch_model-00002-of-00002.safetensors",
        ),
        ("v1-5-pruned.safetensors text2video_pytorch_model.pth flax_model.msgpack", "", ""),
        ("model.bf16.safetensors", "model.bf16.safetensors", "model.bf16.safetensors"),
        (
            "model.bf16.safetensors model.fp16.safetensors model.fp32.safetensors",
            "model.fp32.safetensors",
            "model.fp16.safetensors",
        ),
        ("model.bf16.safetensors model.safetensors", "model.safetensors", "model.bf16.safetensors"),
        ("model.non_ema.safetensors", "model.non_ema.safetensors", "model.non_ema.safetensors"),
        ("model.non_ema.safetensors pytorch_model.bin", "pytorch_model.bin", "pytorch_model.bin"),
        ("model.own.safetensors model.bf16.safetensors", *["model.bf16.safetensors"] * 2),
        ("model.own.safetensors", "model.own.safetensors", "model.own.safetensors"),
        ("diffusion_pytorch_model.bin pytorch_model.bin", *["diffusion_pytorch_model.bin"] * 2),
        *(
            (names, names, names)
            for names in (
                "model.bf16-00001-of-00002.safetensors model.bf16-00002-of-00002.safetensors",
                "model-00001-of-00002.bf16.safetensors model-00002-of-00002.bf16.safetensors",
                "model.non_ema-00001-of-00001.bin",
            )
        ),
        (
            "model-00001-of-00002.safetensors model-00002-of-00003.safetensors "
            "model.fp16.safetensors",
            "model.fp16.safetensors",
            "model.fp16.safetensors",
        ),
    ],
)
def test_one_set_of_weights_is_chosen(names, whole, half):
    assert fetch.chosen_weights(names.split()) == whole.split()
    assert fetch.chosen_weights(reversed(names.split()), half=True) == half.split()


def test_only_what_the_loaders_read_is_downloaded():
    left_out = {".gitattributes", "README.md", *(n for n in ZEROSCOPE if n.startswith("zs2"))}
    assert set(ZEROSCOPE) - set(fetch.wanted_files(ZEROSCOPE)) == left_out


def test_the_command_in_an_error_runs_from_anywhere(tmp_path):
    line = fetch.command("zeroscope_v2_576w", tmp_path / "my models")
    words = [w.strip('"') for w in shlex.split(line, posix=sys.platform != "win32")]
    assert words[2:] == ["zeroscope_v2_576w", "--into", str(tmp_path / "my models")]
    done = subprocess.run(
        [*words[:2], "no-such-model"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unknown model 'no-such-model'; known are zeroscope_v2_576w" in done.stderr


def test_a_model_goes_into_a_folder_of_its_name(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository: ZEROSCOPE)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *given, **named: asked.append((given, named))
    )
    fetch.main(["zeroscope_v2_576w", "--into", str(tmp_path)])
    ((repository,), named) = asked[0]
    assert repository == "cerspense/zeroscope_v2_576w"
    assert named["local_dir"] == tmp_path / "zeroscope_v2_576w"
    assert named["allow_patterns"] == fetch.wanted_files(ZEROSCOPE)
    assert f"files are in {tmp_path / 'zeroscope_v2_576w'}" in capsys.readouterr().out
    fetch.main(["someone/their-model", "--into", str(tmp_path)])
    assert asked[1][0] == ("someone/their-model",)
    assert asked[1][1]["local_dir"] == tmp_path / "their-model"


@pytest.mark.parametrize(
    "name", ["../evil", "a/../b", "a/b/c", "https://x.y/z", "-x/y", "a/..", ""]
)
def test_a_name_that_is_no_model_is_refused(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda _: pytest.fail("was asked"))
    with pytest.raises(SystemExit):
        fetch.main(["--into", "x", "--", name])


def test_a_repository_without_weights_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda _: ["README.md", "a.ckpt"])
    with pytest.raises(SystemExit):
        fetch.main(["someone/lora", "--into", str(tmp_path)])
    assert "someone/lora holds no weights in diffusers layout" in capsys.readouterr().err


def test_models_go_to_the_host_when_the_pack_lies_in_it(monkeypatch, tmp_path):
    place = tmp_path / "ComfyUI" / "custom_nodes" / "rescore" / "pipelines" / "models"
    monkeypatch.setattr(fetch, "__file__", str(place / "fetch.py"))
    assert fetch.default_folder("diffusers") == tmp_path / "ComfyUI" / "models" / "diffusers"
    monkeypatch.setattr(fetch, "__file__", str(tmp_path / "rescore" / "a" / "b" / "fetch.py"))
    monkeypatch.chdir(tmp_path)
    assert fetch.default_folder("diffusers") == Path.cwd() / "models" / "diffusers"
