"""A small real CLIP tokenizer in which every content word of a shape-world caption is one token."""

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

if TYPE_CHECKING:
    from transformers import CLIPTokenizerFast

WINDOW = 24  # tokens, with start and end; the longest caption has 16
_OTHER_WORDS = ("a", "small", "large", "moving", "on", "background", "beside")


def words() -> tuple[str, ...]:
    """All words that captions are made of, in a fixed order."""
    found = dict.fromkeys((*_OTHER_WORDS, *COLOURS, *SHAPES, *MOTIONS, *BACKGROUNDS))
    return tuple(found)


def write_tokenizer(folder: Path) -> None:
    """Write `vocab.json`, `merges.txt` and the configuration of the tokenizer to a folder.

    Byte-pair merges build each word from its letters, so each becomes one token; any other text
    still tokenises, byte by byte, as with every CLIP tokenizer.
    """
    alphabet = sorted(_byte_alphabet().values())
    merges: list[tuple[str, str]] = []
    for word in words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            # An earlier word may have taught some of these pieces already: apply what is known.
            known = next((pair for pair in merges if pair in _pairs(pieces)), None)
            pair = known or (pieces[0], pieces[1])
            if known is None:
                merges.append(pair)
            pieces = _merge(pieces, pair)
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += list(dict.fromkeys("".join(pair) for pair in merges))
    tokens += ["<|startoftext|>", "<|endoftext|>"]

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    configuration = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": WINDOW,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2), "utf-8")
    special = {key: configuration[key] for key in ("bos_token", "eos_token", "pad_token")}
    special["unk_token"] = configuration["unk_token"]
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), "utf-8")


def load_tokenizer(folder: Path) -> "CLIPTokenizerFast":
    from transformers import CLIPTokenizerFast

    return CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)


def _byte_alphabet() -> dict[int, str]:
    """The printable stand-in of every byte in byte-level BPE: itself, or a character above 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {byte: chr(byte) for byte in printable}
    for shift, byte in enumerate(byte for byte in range(256) if byte not in alphabet):
        alphabet[byte] = chr(256 + shift)
    return alphabet


def _pairs(pieces: list[str]) -> set[tuple[str, str]]:
    return set(pairwise(pieces))


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
