"""A whole Wan folder as diffusers saves it, tiny and untrained; its classes are the real ones."""

import json
import warnings
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

SHIFT, TEXT_WIDTH, CHANNELS = 3.0, 24, 5


def tiny_transformer(seed: int = 0, **settings) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT_WIDTH,
        "freq_dim": 14,
        "ffn_dim": 22,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }
    return WanTransformer3DModel(**config | settings).eval().requires_grad_(False)


def tiny_vae(seed: int = 0) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.3, -0.7, 0.1, 1.1, -0.2],
        latents_std=[1.3, 0.7, 1.9, 1.1, 2.3],
    )
    return vae.eval().requires_grad_(False)


def tiny_umt5(words: int, seed: int = 0) -> UMT5EncoderModel:
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=words, d_model=TEXT_WIDTH, d_kv=6, d_ff=34, num_layers=2, num_heads=4
    )
    return UMT5EncoderModel(config).eval().requires_grad_(False)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Built as UMT5's: pieces of words behind a mark for blanks, and one end token."""
    letters = "abcdefghijklmnopqrstuvwxyz,."
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -3.0)]
    pieces += [(letter, -4.0) for letter in letters] + [("\u2581red", -1.0), ("\u2581a", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def write_tiny_wan(folder: Path, seed: int = 0) -> Path:
    """The folder of a text-to-video model of Wan, as `WanPipeline.save_pretrained` writes it."""
    tokenizer = tiny_tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' own making
        tiny_transformer(seed).save_pretrained(folder / "transformer")
        tiny_vae(seed).save_pretrained(folder / "vae")
        tiny_umt5(len(tokenizer), seed).save_pretrained(folder / "text_encoder")
        tokenizer.save_pretrained(folder / "tokenizer")
        FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.35.0",
        "boundary_ratio": None,
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), "utf-8")
    return folder
