"""Tokenizers from model folders, written by any release of transformers."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from transformers import (
    BertTokenizerFast,
    CLIPTokenizerFast,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5TokenizerFast,
)

from .files import MIB, read_bytes
from .layout import problem, read_json

Tokenizer = TypeVar("Tokenizer", bound=PreTrainedTokenizerBase)

# Release 5 and later write only tokenizer.json; older ones the vocabulary files of each class.
_NEW = "tokenizer.json"
_VOCABULARY = {
    CLIPTokenizerFast: ("vocab.json", "merges.txt"),
    BertTokenizerFast: ("vocab.txt",),
    T5TokenizerFast: ("spiece.model",),
    PreTrainedTokenizerFast: (),  # any kind of tokenizer, from tokenizer.json only
}
_BESIDE = ("added_tokens.json", "special_tokens_map.json")
_SPECIAL = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
# The entries of tokenizer_config.json that are used. Others name files or classes, or depend on
# the release.
_SETTINGS = {
    "model_max_length",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "added_tokens_decoder",
    *(f"{name}_token" for name in _SPECIAL),
}
_LARGEST = 32 * MIB  # a file of a tokenizer
_FEWEST_TOKENS = 3  # of a prompt: its start, one token, its end


def has_tokenizer(make: type[PreTrainedTokenizerBase], place: Path) -> bool:
    """Whether a folder holds the files that a tokenizer of the class `make` needs."""
    old = _VOCABULARY[make]
    whole = bool(old) and all((place / file).exists() for file in old)
    return whole or (place / _NEW).exists()


def load_tokenizer(
    make: type[Tokenizer], place: Path, vocabulary: int, kind: str, folder: Path
) -> Tokenizer:
    """The tokenizer in the folder `place`, for a model from `folder` with `vocabulary` tokens.

    Only files in `place` are read, even if its settings name others.

    Raises:
        ModelError: if there is none, its files are damaged, or it has more tokens than the model.
    """
    old = _VOCABULARY[make]
    if not has_tokenizer(make, place):
        nor = f", and no {' and '.join(old)}" if old else ""
        raise problem(kind, folder, f"has no tokenizer: there is no {_NEW} in {place}{nor}.")
    settings = {}
    if (place / "tokenizer_config.json").exists():
        settings = read_json(place / "tokenizer_config.json", kind, folder)
    try:
        # transformers may follow settings to other folders: it gets a folder with these files only.
        with TemporaryDirectory() as bare:
            for name in (_NEW, *old, *_BESIDE):
                if (place / name).exists():
                    Path(bare, name).write_bytes(read_bytes(place / name, _LARGEST))
            kept = {name: value for name, value in settings.items() if name in _SETTINGS}
            Path(bare, "tokenizer_config.json").write_text(json.dumps(kept), "utf-8")
            tokenizer = make.from_pretrained(bare, local_files_only=True)
        letter = tokenizer("a", add_special_tokens=False)["input_ids"]
    # The tokenizers package raises bare exceptions for damaged files.
    except Exception as error:
        raise problem(kind, folder, f"has a damaged tokenizer in {place} ({error}).") from error
    longest = tokenizer.model_max_length
    if longest < _FEWEST_TOKENS or longest != int(longest):
        found = f"has model_max_length = {longest!r} in {place / 'tokenizer_config.json'}."
        raise problem(kind, folder, found)
    if len(tokenizer) > vocabulary:
        found = f"has a tokenizer of {len(tokenizer)} tokens and a model that knows {vocabulary}."
        raise problem(kind, folder, found)
    if not letter or tokenizer.unk_token_id in letter or tokenizer.pad_token_id is None:
        raise problem(kind, folder, f"has a tokenizer in {place} that cannot read the letter a.")
    return tokenizer
