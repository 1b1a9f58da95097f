"""Tiny real CLIP and DINO models, and LPIPS files of random weights, written to disk."""

import json
from pathlib import Path

import torch
from rescore.pipelines.measures.lpips import NETWORKS
from rescore.shapeworld.tokenizer import WINDOW, load_tokenizer, write_tokenizer
from tiny_models import fill
from torch import nn
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

PICTURE = 14  # pixels of the square it sees, in patches of 7
PREPROCESSOR = {
    "size": {"shortest_edge": PICTURE},
    "crop_size": {"height": PICTURE, "width": PICTURE},
    "resample": 3,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


def write_tiny_clip(folder: Path, *, seed: int = 0, vocabulary: int | None = None) -> Path:
    """A CLIP folder as transformers saves it, with the shape world's tokenizer.

    Of a `vocabulary` of another size the folder holds no tokenizer.
    """
    if vocabulary is None:
        write_tokenizer(folder)
        vocabulary = len(load_tokenizer(folder))
    torch.manual_seed(seed)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 22}
    config = CLIPConfig(
        text_config={
            **layers,
            "hidden_size": 12,
            "vocab_size": vocabulary,
            "max_position_embeddings": WINDOW,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        vision_config={**layers, "hidden_size": 10, "image_size": PICTURE, "patch_size": 7},
        projection_dim=6,
    )
    fill(CLIPModel(config), seed).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), "utf-8")
    return folder


def write_random_lpips(folder: Path, name: str = "alex", *, seed: int = 0) -> Path:
    """The two files of LPIPS, named and laid out as they are published."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = NETWORKS[name]
    layers = nn.Sequential(*network.layers())
    trunk = {f"features.{key}": tensor for key, tensor in layers.state_dict().items()}
    torch.save({**trunk, "classifier.1.weight": torch.ones(2)}, folder / network.trunk)
    features, widths = torch.zeros(1, 3, 64, 64), []
    for number, layer in enumerate(layers):
        features = layer(features)
        if number in network.taps:
            widths.append(features.shape[1])
    heads = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(widths)}
    torch.save(heads, folder / network.heads)
    return folder


def write_tiny_dino(folder: Path, *, seed: int = 0) -> Path:
    """A DINO folder as transformers saves it: a vision transformer that sees 224 pixels."""
    config = ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=14,
        image_size=224,
        patch_size=32,
    )
    fill(ViTModel(config, add_pooling_layer=False), seed).save_pretrained(folder)
    return folder
