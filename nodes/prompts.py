"""The node that turns a source and a target prompt into what the models read."""

import logging
from typing import Any

from . import host
from .sockets import MODEL, PROMPTS, PromptPair

log = logging.getLogger("rescore")


class EncodePromptPair:
    """Source, target and negative prompt through the model's own text encoder."""

    DESCRIPTION = (
        "Encodes what the clip shows (source) and what it should show (target) with the model's "
        "own text encoder. Keep the two prompts alike but for what is to change."
    )
    CATEGORY = f"{host.CATEGORY}/prompts"
    FUNCTION = "encode"
    RETURN_TYPES = (PROMPTS, "STRING")
    RETURN_NAMES = ("prompts", "report")
    OUTPUT_TOOLTIPS = (
        "The encoded pair, for the loops.",
        "What was encoded, and which words, if any, were cut because the prompt is too long.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL, {"tooltip": "The model whose text encoder reads the prompts."}),
                "source_prompt": (
                    "STRING",
                    {
                        "default": "a red circle moving right on a plain background",
                        "multiline": True,
                        "tooltip": "What the clip shows now. The closer it describes the clip, the "
                        "less is changed that should stay.",
                    },
                ),
                "target_prompt": (
                    "STRING",
                    {
                        "default": "a blue circle moving right on a plain background",
                        "multiline": True,
                        "tooltip": "What it should show: the source prompt with the words changed "
                        "that are to change. If nothing changes in the clip, make the difference "
                        "more explicit or raise cfg.",
                    },
                ),
                "negative_prompt": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": "What guidance moves away from. Empty is the usual choice, and "
                        "the one the papers use.",
                    },
                ),
            }
        }

    def encode(self, model, source_prompt: str, target_prompt: str, negative_prompt: str):
        from ..pipelines.models.denoiser import Prompts

        if not target_prompt.strip():
            raise ValueError(
                "The target prompt is empty. Describe the clip as it should look after the edit."
            )
        host.load(model, "text_encoder")
        texts = {"source": source_prompt, "target": target_prompt, "negative": negative_prompt}
        encoded = {name: model.encode_prompt(text) for name, text in texts.items()}
        lines = [f'{name}: "{text}"' for name, text in texts.items()]
        for name, prompt in encoded.items():
            if prompt.cut:
                lines.append(
                    f'The {name} prompt is too long; the model does not see "{prompt.cut}".'
                )
                log.warning(lines[-1])
        if source_prompt.strip() == target_prompt.strip():
            lines.append(
                "Source and target prompt are the same: an edit will change next to nothing."
            )
            log.warning(lines[-1])
        embeddings = Prompts(**{name: prompt.embedding for name, prompt in encoded.items()})
        pair = PromptPair(source_prompt, target_prompt, negative_prompt, embeddings)
        return (pair, "\n".join(lines))


NODE_CLASS_MAPPINGS = {"ReScoreEncodePromptPair": EncodePromptPair}
NODE_DISPLAY_NAME_MAPPINGS = {"ReScoreEncodePromptPair": "Encode Prompt Pair"}
