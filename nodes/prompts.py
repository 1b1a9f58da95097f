"""The node that encodes a source and a target prompt for a model."""

import logging

from . import host
from .sockets import MODEL, PROMPTS, PromptPair
from .widgets import SOCKET, STRING, Node, outputs

log = logging.getLogger("rescore")


class EncodePromptPair(Node):
    TITLE = "Encode Prompt Pair"
    SEARCH_ALIASES = ["text encode", "source and target prompt", "edit prompt", "negative prompt"]
    DESCRIPTION = (
        "Encodes what the clip shows (source) and what it should show (target) with the model's "
        "own text encoder. Keep the two prompts alike but for what is to change."
    )
    CATEGORY = f"{host.CATEGORY}/prompts"
    FUNCTION = "encode"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        prompts=(PROMPTS, "The encoded pair, for the loops."),
        report=("STRING",
            "What was encoded, and which words, if any, were cut because the prompt is too long."),
    )  # fmt: skip
    REQUIRED = {
        "model": SOCKET(MODEL, "The model whose text encoder reads the prompts."),
        "source_prompt": STRING("a red circle moving right on a plain background",
            "What the clip shows now. The closer it describes the clip, "
            "the less is changed that should stay.", multiline=True),
        "target_prompt": STRING("a blue circle moving right on a plain background",
            "What it should show: the source prompt with the words changed that are to change. If "
            "nothing changes in the clip, make the "
            "difference more explicit or raise cfg.", multiline=True),
        "negative_prompt": STRING("",
            "What guidance moves away from. Empty is the usual choice, "
            "and the one the papers use.", multiline=True),
    }  # fmt: skip

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
