"""The tiny Wan's files in the host: detected by its own loaders, and the same numbers as here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from einops import rearrange
from rescore.shapeworld import wan
from rescore.shapeworld.edits import prompts
from rescore.shapeworld.render import render
from rescore.tests.host.conftest import absent
from rescore.tests.host.start import HERE, host_environment
from safetensors.torch import load_file, save_file
from torch.nn import functional

pytestmark = pytest.mark.host

WIDE = 4096  # of a text in the hosts that do not read the width off the metadata


@pytest.fixture(scope="module")
def folder() -> Path:
    comfyui = Path(os.environ.get("COMFYUI_DIR") or "~/ComfyUI").expanduser()
    if reason := absent(comfyui):
        pytest.skip(reason)
    return comfyui


def reads_the_width(comfyui: Path) -> bool:
    """Whether the host reads a Wan's configuration off the metadata; it does after 0.15."""
    source = (comfyui / "comfy" / "model_detection.py").read_text("utf-8")
    part = source[source.index("head.modulation") :]
    return 'metadata["config"]' in part[: part.index("return dit_config")]


def widened(file: Path, wide: Path) -> None:
    """The same transformer for texts of 4096 numbers, of which it hears the first 64."""
    weights = load_file(file)
    name = "text_embedding.0.weight"
    weights[name] = functional.pad(weights[name], (0, WIDE - weights[name].shape[1]))
    save_file(weights, wide)


def test_the_hosts_wan_detects_the_files_and_predicts_what_diffusers_wan_does(folder, tmp_path):
    transformer, vae = wan.load_transformer(), wan.load_vae()
    generator = torch.Generator().manual_seed(19)
    given = {
        "z": torch.randn(2, 16, 3, 8, 8, generator=generator),
        "t": torch.tensor([971.0, 131.0]),
        "text": torch.randn(2, 24, 64, generator=generator),
        "clip": render(prompts(1, frames=9)[0]).clip,
    }
    clip = rearrange(given["clip"], "f h w c -> 1 c f h w") * 2 - 1
    with torch.no_grad():
        velocity = transformer(given["z"], given["t"], given["text"]).sample
        given["latents"] = vae.encode(clip).latent_dist.mean
        decoded = vae.decode(given["latents"]).sample / 2 + 0.5
    file = wan.FOLDER / wan.TRANSFORMER
    told = given
    if not reads_the_width(folder):
        widened(file, file := tmp_path / "wide.safetensors")
        told = given | {"text": functional.pad(given["text"], (0, WIDE - 64))}
    save_file(told, tmp_path / "given.safetensors")
    command = [sys.executable, HERE / "native_wan.py", folder, file, wan.FOLDER / wan.VAE]
    command += [tmp_path / "given.safetensors", tmp_path / "found.safetensors", "--cpu"]
    run = subprocess.run(
        [str(part) for part in command],
        env=host_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    found = load_file(tmp_path / "found.safetensors")
    assert "".join(chr(int(c)) for c in found["kind"]) == "WAN21"
    torch.testing.assert_close(found["velocity"], velocity, rtol=0, atol=1e-4)
    assert found["mean"].tolist() == pytest.approx(vae.config.latents_mean)
    assert found["deviation"].tolist() == pytest.approx(vae.config.latents_std)
    torch.testing.assert_close(found["latents"], given["latents"], rtol=0, atol=1e-4)
    pictures = rearrange(decoded, "b c f h w -> b f h w c")
    torch.testing.assert_close(found["decoded"].view_as(pictures), pictures, rtol=0, atol=1e-4)
