"""What T5 and UMT5 share: a word embedding with two names, of which a file may store one."""

from collections.abc import Mapping

from torch import Tensor, nn

_NAMES = ("shared.weight", "encoder.embed_tokens.weight")


def shared_embedding(weights: Mapping[str, Tensor], _: object) -> Mapping[str, Tensor]:
    """The weights with the word embedding under both of its names."""
    held = next((weights[name] for name in _NAMES if name in weights), None)
    return weights if held is None else {**weights, **dict.fromkeys(_NAMES, held)}


def tie_embedding(text_encoder: nn.Module) -> None:
    """Make both names of the word embedding the same tensor."""
    text_encoder.encoder.embed_tokens.weight = text_encoder.shared.weight
