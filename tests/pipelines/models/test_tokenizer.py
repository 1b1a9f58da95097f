"""Tokenizers of every layout read as transformers' own, and nothing outside a folder is opened."""

import hashlib
import json
import os
import shutil
import sys

import pytest
from rescore.pipelines.models.layout import SD1_CONFIGS, ModelError
from rescore.pipelines.models.tokenizer import load_tokenizer
from rescore.shapeworld.tokenizer import write_tokenizer
from transformers import CLIPTokenizer, CLIPTokenizerFast

CLIP = SD1_CONFIGS / "tokenizer"
PROMPTS = [
    "",
    "a photo of a cat",
    "A Red circle, moving RIGHT!  On a\tplain\nbackground...",
    "a motorcyclist rides a motorbike; a hippopotamus in a swimmingpool",
    "it's the 1990s: 3D, 4k, 50% off & $9.99 (best quality:1.3) <lora:x:1>",
    "caf\u00e9 cafe\u0301 Z\u00fcrich pi\u00f1ata na\u00efve \u0130stanbul Stra\u00dfe",
    "\u0440\u044b\u0436\u0438\u0439 \u043a\u043e\u0442, \u4e00\u53ea\u732b \u65e5\u672c",
    "\U0001f431\U0001f431 \U0001f469\u200d\U0001f680 \u2764\ufe0f \U0001f44d\U0001f3fd",
    "<|endoftext|> in the middle <|startoftext|>",
    "x\u00a0y\u200bz \ufffd \x01 \u202e",
    "many " * 200,
]


def load(place, vocabulary=49408):
    return load_tokenizer(CLIPTokenizerFast, place, vocabulary, "image", place)


def layouts(source, folder):
    """Folders with the same tokenizer in the layouts that releases of transformers have written."""
    saved = folder / "saved"
    CLIPTokenizerFast.from_pretrained(source).save_pretrained(saved)
    kept = {
        "today": ("tokenizer.json", "tokenizer_config.json"),
        "alone": ("tokenizer.json",),
        "old": ("vocab.json", "merges.txt", "tokenizer_config.json"),
        "bare": ("vocab.json", "merges.txt"),
        "both": ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"),
    }
    for name, files in kept.items():
        (folder / name).mkdir()
        for file in files:
            held = saved if file.startswith("tokenizer") else source
            shutil.copy(held / file, folder / name / file)
    return [folder / name for name in kept]


def test_every_layout_reads_as_transformers_own(tmp_path):
    expected = CLIPTokenizer.from_pretrained(CLIP)
    for place in layouts(CLIP, tmp_path):
        found = load(place)
        assert len(found) == len(expected) == 49408
        for prompt in PROMPTS:
            ids = found(prompt, verbose=False)["input_ids"]
            assert ids == expected(prompt, verbose=False)["input_ids"], (place.name, prompt)


def test_settings_of_the_folder_are_kept(tmp_path):
    shutil.copytree(CLIP, tmp_path / "x")
    settings = {"model_max_length": 31, "pad_token": "!"}  # as Stable Diffusion 2 has it
    (tmp_path / "x" / "tokenizer_config.json").write_text(json.dumps(settings))
    found = load(tmp_path / "x")
    assert (found.model_max_length, found.pad_token, found.pad_token_id) == (31, "!", 0)


def test_shipped_words_are_clips():
    """As published: a sum over the merges, and the numbers the paper's code gives to a caption."""
    merges = (CLIP / "merges.txt").read_bytes().split(b"\n", 1)[1]
    assert hashlib.sha256(merges).hexdigest() == MERGES
    pairs = merges.decode("utf-8").removesuffix("\n").split("\n")
    assert len(pairs) == 49152 - 256 - 2
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [
        chr(256 + i) for i in range(256 - len(printable))
    ]
    made = ["".join(pair.split(" ")) for pair in pairs]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *made, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = json.loads((CLIP / "vocab.json").read_text("utf-8"))
    assert vocabulary == {token: number for number, token in enumerate(tokens)}
    caption = load(CLIP)("a photo of a cat")["input_ids"]
    assert caption == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert "MIT License" in (CLIP / "LICENSE").read_text("utf-8")


# Of what follows the first line of merges.txt in openai/clip-vit-large-patch14, too.
MERGES = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"


@pytest.fixture
def place(tmp_path):
    write_tokenizer(tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize("entry", ["tokenizer_file", "vocab_file", "merges_file", "name_or_path"])
@pytest.mark.parametrize("where", ["absolute", "relative", "device"])
def test_files_that_settings_name_are_not_followed(place, tmp_path, entry, where):
    expected = CLIPTokenizerFast.from_pretrained(place)
    CLIPTokenizerFast.from_pretrained(CLIP).save_pretrained(tmp_path / "other")
    other = {
        "absolute": str(tmp_path / "other" / "tokenizer.json"),
        "relative": "../other/tokenizer.json",
        "device": "/dev/zero",
    }
    settings = json.loads((place / "tokenizer_config.json").read_text("utf-8"))
    settings[entry] = other[where]
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load(place).get_vocab() == expected.get_vocab()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes")
@pytest.mark.parametrize(
    "file", ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"]
)
def test_pipes_and_devices_are_not_opened(place, file):
    (place / file).unlink(missing_ok=True)
    os.mkfifo(place / file)
    with pytest.raises(ModelError, match="is no ordinary file"):
        load(place)
    (place / file).unlink()
    (place / file).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="is no ordinary file"):
        load(place)


def test_a_file_that_is_far_too_large_is_not_read(place):
    with (place / "vocab.json").open("ab") as file:
        file.truncate(2**35)
    with pytest.raises(ModelError, match="34,359,738,368 bytes, and 33,554,432 are the most"):
        load(place)


@pytest.mark.parametrize("longest", ["3.5", "2", "0", "-1", "2e0"])
def test_a_window_that_makes_no_sense_is_told(place, longest):
    (place / "tokenizer_config.json").write_text(f'{{"model_max_length": {longest}}}', "utf-8")
    with pytest.raises(ModelError, match="model_max_length = "):
        load(place)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vocab.json", "{"),
        ("vocab.json", "[]"),
        ("vocab.json", "{}"),
        ("vocab.json", '{"a": "b"}'),
        ("vocab.json", '{"a</w>": -1}'),
        ("vocab.json", '{"a</w>": 99999999999999999999}'),
        ("merges.txt", "a b c d\n"),
        ("merges.txt", "\x00" * 99),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": [], "merges": 3}}'),
        ("tokenizer_config.json", '{"model_max_length": "many"}'),
        ("tokenizer_config.json", '{"model_max_length": NaN}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"9999999999": {"content": "<new>"}}}'),
        ("tokenizer_config.json", "[1, 2]"),
        ("special_tokens_map.json", '{"eos_token": [[[]]]}'),
        ("added_tokens.json", '{"<new>": 4000000000}'),
    ],
)
def test_damaged_files_are_told(place, file, content):
    vocabulary = len(load(place))
    (place / file).write_text(content, "utf-8")
    with pytest.raises(ModelError, match=r"Expected a Stable Diffusion 1\.x model"):
        load(place, vocabulary)


def test_no_files_are_told(place, tmp_path):
    (place / "merges.txt").unlink()
    with pytest.raises(
        ModelError, match=r"there is no tokenizer\.json in .*no vocab\.json and mer"
    ):
        load(place)
    with pytest.raises(ModelError, match="has no tokenizer"):
        load(tmp_path / "absent")
