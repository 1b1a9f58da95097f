"""The node that encodes a source and a target prompt for a model."""

import logging
import re

from . import host
from .sockets import MODEL, PROMPTS, PromptPair
from .widgets import SOCKET, STRING, Node, outputs

log = logging.getLogger("rescore")

# Syntax of the host's own prompts that ReScore's models read as plain letters.
_HOST_SYNTAX = {
    re.compile(r"\(.*?\)", re.DOTALL): (
        "brackets and numbers weigh no words. Weights of words go into word_weights of "
        "Attention-Controlled Sampling"
    ),
    re.compile(r"\{[^{}]*\|[^{}]*\}"): (
        "no choice is made here, as ComfyUI's window does before it queues a graph. Write the one "
        "that is meant"
    ),
    re.compile(r"\bembedding:\S+"): "no embedding is loaded. Describe in words what it stands for",
    re.compile(r"<\w+:.*?>", re.DOTALL): (
        "no LoRA is loaded. Load a checkpoint that it is merged into"
    ),
}


def host_syntax(text: str) -> list[str]:
    """A sentence for each piece of the host's syntax in a prompt, which has no effect here."""
    return [
        f'"{found[0]}" is read as letters here: {why}.'
        for pattern, why in _HOST_SYNTAX.items()
        for found in pattern.finditer(text)
    ]


def warn_of_host_syntax(prompt: str) -> None:
    """Write `host_syntax` to the log, for nodes without a report."""
    for told in host_syntax(prompt):
        log.warning("In the prompt, %s", told)


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
            "What was encoded, which words, if any, were cut because the prompt is too long, and "
            "what is not read as in ComfyUI's own prompts."),
    )  # fmt: skip
    REQUIRED = {
        "model": SOCKET(MODEL, "The model whose text encoder reads the prompts."),
        "source_prompt": STRING("a red circle moving right on a plain background",
            "What the clip shows now. The closer it describes the clip, "
            "the less is changed that should stay.", multiline=True),
        "target_prompt": STRING("a blue circle moving right on a plain background",
            "What it should show: the source prompt with the words changed that are to change. If "
            "nothing changes in the clip, make the difference more explicit or raise cfg, or "
            "strength where there is one.", multiline=True),
        "negative_prompt": STRING("",
            "What guidance moves away from. Empty is the usual choice.", multiline=True),
    }  # fmt: skip

    def encode(self, model, source_prompt: str, target_prompt: str, negative_prompt: str):
        from ..pipelines.models.denoiser import Prompts

        if model.kind == "native":
            raise ValueError(
                f"{model.name} is ComfyUI's own MODEL, and its prompts are CONDITIONING: encode "
                "them with CLIP Text Encode, wire them to Native Model, and use its prompts."
            )
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
        for name, text in texts.items():
            for told in host_syntax(text):
                lines.append(f"In the {name} prompt, {told}")
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
