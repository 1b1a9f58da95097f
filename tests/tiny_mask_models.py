"""Tiny real Grounding DINO and SAM 2 models of random weights, written to disk."""

from pathlib import Path

import torch
from tiny_models import fill
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Sam2VideoConfig,
    Sam2VideoModel,
    SwinConfig,
)

SHORTEST, LONGEST = 64, 107  # pixels of what Grounding DINO sees
SQUARE = 64  # and SAM 2
_WORDS = ("a", "red", "blue", "circle", "square", "dog", "cat", "##s")
# Grounding DINO knows these tokens by their numbers, which are those of BERT.
_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
_SPECIAL |= {1012: ".", 1029: "?"}
_VOCABULARY = 1031


def write_tiny_grounding_dino(folder: Path, *, seed: int = 0) -> Path:
    """A Grounding DINO folder as transformers saves it, with a tokenizer of a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [_SPECIAL.get(i, f"[unused{i}]") for i in range(_VOCABULARY)]
    words[200 : 200 + len(_WORDS)] = _WORDS
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=_VOCABULARY,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=19,
            max_position_embeddings=64,
        ),
        num_queries=11,
        max_text_len=32,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=29,
        encoder_n_points=2,
        decoder_n_points=2,
        disable_custom_kernels=True,
    )
    torch.manual_seed(seed)
    fill(GroundingDinoForObjectDetection(config), seed).save_pretrained(folder)
    settings = f'{{"size": {{"shortest_edge": {SHORTEST}, "longest_edge": {LONGEST}}}}}'
    (folder / "preprocessor_config.json").write_text(settings, "utf-8")
    return folder


def write_tiny_sam2(folder: Path, *, seed: int = 0) -> Path:
    """A SAM 2 video folder as transformers saves it."""
    sizes = [[SQUARE // factor] * 2 for factor in (4, 8, 16)]
    config = Sam2VideoConfig(
        image_size=SQUARE,
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [SQUARE, SQUARE],
                "hidden_size": 8,
                "num_attention_heads": 1,
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 2, 4, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": sizes,
            "fpn_hidden_size": 128,
        },
        prompt_encoder_config={"hidden_size": 128, "image_size": SQUARE, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 128,
            "mlp_dim": 37,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 128,
        },
        num_maskmem=3,
        max_object_pointers_in_encoder=3,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=41,
        memory_attention_rope_feat_sizes=[SQUARE // 16] * 2,
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=43,
        memory_fuser_num_layers=1,
    )
    torch.manual_seed(seed)
    model = fill(Sam2VideoModel(config), seed)
    with torch.no_grad():
        # A fresh model sees the same everywhere; larger weights tell places apart.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 4
        # And there is an object to be seen in every frame.
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(1000)
    model.save_pretrained(folder)
    return folder
