"""The weights that ship: small enough, whole, and with no trace of where they were made."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from rescore.shapeworld import models
from rescore.shapeworld.cascade import FOLDER as CASCADE
from rescore.shapeworld.finished import WEIGHTS
from rescore.shapeworld.models import NAMES
from rescore.shapeworld.train.captions import WordReader
from rescore.shapeworld.wan import FOLDER


def test_all_models_together_are_at_most_24_megabytes_and_the_cascade_6_more():
    def size(*models: Path) -> int:
        files = (file for model in models for file in model.rglob("*") if file.is_file())
        return sum(file.stat().st_size for file in files)

    assert size(*(model for model in WEIGHTS.iterdir() if model != CASCADE)) <= 24_000_000
    assert size(CASCADE) <= 6_000_000


def test_the_models_share_autoencoder_text_encoder_and_tokenizer():
    sd, t2v = WEIGHTS / "shapeworld-sd", WEIGHTS / "shapeworld-t2v"
    for part in ("vae", "text_encoder", "tokenizer"):
        for file in (sd / part).iterdir():
            assert file.read_bytes() == (t2v / part / file.name).read_bytes(), file


@pytest.mark.parametrize("name", [name for name in NAMES if name != FOLDER.name])
def test_every_model_meets_the_noise_it_was_trained_on(name):
    folder = CASCADE / "keyframes" if name == CASCADE.name else WEIGHTS / name
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    trained = DDIMScheduler.from_config(config).alphas_cumprod
    torch.testing.assert_close(
        models.load_shapeworld(name).process.alphas_bar, trained.double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("attribute", WordReader.attributes)
def test_every_word_of_a_caption_is_heard_after_its_end(attribute):
    """An encoder that says "left" and "right" alike leaves every model on it deaf to motion."""
    model = models.load_shapeworld("shapeworld-sd")
    said = {
        "size": "small",
        "colour": "red",
        "shape": "ring",
        "motion": "up",
        "background": "plain",
    }
    texts = [
        "a {size} {colour} {shape} moving {motion} on a {background} background".format(
            **said | {attribute: word}
        )
        for word in WordReader.attributes[attribute]
    ]
    ends = torch.stack([model.encode_prompt(text).embedding[0, -1] for text in texts])
    apart = torch.pdist(ends) / ends.norm(dim=1).mean()
    assert apart.min() > 0.3


def test_an_incomplete_pack_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"shapeworld-t2v is missing.*the pack again"):
        models.load_shapeworld("shapeworld-t2v")
