"""The tokenizer: a real CLIP one, in which a word of a caption is one token."""

from pathlib import Path

import pytest
from rescore.shapeworld.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    RADII,
    SHAPES,
    caption,
    sample_scene,
)
from rescore.shapeworld.tokenizer import WINDOW, load_tokenizer, words, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    scenes = [sample_scene(seed) for seed in range(400)]
    return [caption(scene, motion=motion) for scene in scenes for motion in (True, False)]


def test_every_word_is_one_token(tokenizer):
    assert {*COLOURS, *SHAPES, *MOTIONS, *BACKGROUNDS, "small", "large"} <= set(words())
    assert set(RADII) - set(words()) == {"medium"}
    tokens = [tokenizer(word, add_special_tokens=False).input_ids for word in words()]
    assert all(len(ids) == 1 for ids in tokens)
    assert len({ids[0] for ids in tokens}) == len(words())


def test_captions_are_made_of_these_words_alone(captions: list[str]):
    assert {word for text in captions for word in text.split()} == set(words())


def test_a_caption_is_its_words_between_start_and_end(tokenizer, captions: list[str]):
    lengths = set()
    for text in set(captions):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.convert_ids_to_tokens(ids[1:-1]) == [w + "</w>" for w in text.split()]
        lengths.add(len(ids))
    assert max(lengths) == 16 <= WINDOW


def test_captions_are_padded_to_the_window_and_come_back(tokenizer):
    text = "a red circle moving right on a plain background"
    ids = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == WINDOW
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert tokenizer(text.upper()).input_ids == tokenizer(text).input_ids


def test_other_text_still_tokenises(tokenizer):
    ids = tokenizer("crimson pentagon", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).strip() == "crimson pentagon"


def test_the_special_tokens_close_the_vocabulary(tokenizer):
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1


def test_writing_again_gives_the_same_files(folder: Path, tmp_path: Path):
    write_tokenizer(tmp_path)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert "vocab.json" in files and "merges.txt" in files
    for name in files:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
