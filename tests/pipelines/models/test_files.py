"""Files from strangers: what is looked at before they are opened, what messages show of them."""

import json
import os
import sys

import pytest
from rescore.pipelines.models.files import open_json, shown

NEEDS_PIPES = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes")


def written(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / "config.json"


def test_json_is_what_json_says(tmp_path):
    value = {"a": [1, -2.5e3, True, None, "\u00e9\u732b"], "b": {"a": {}}, "long": 10**30}
    assert open_json(written(tmp_path, json.dumps(value))) == value
    assert open_json(written(tmp_path, b"\xef\xbb\xbf" + json.dumps(value).encode())) == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": NaN}', "has NaN for a number"),
        ('{"a": -Infinity}', "has -Infinity for a number"),
        ('{"a": 1e999}', "has 1e999 for a number"),
        (f'{{"a": {"9" * 9999}}}', "digits"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "has 'c' twice in one object"),
        ("[" * 200_000, "nested too deep"),
        ('{"a":' * 200_000, "nested too deep"),
        ("", "Expecting value"),
        (b"\xff\xfe{\x00}\x00", "codec can't decode"),
        (b"\x00" * 100, "Expecting value"),
        (" " * 5_000_000, r"has 5,000,000 bytes, and 4,194,304 are the most"),
    ],
)
def test_what_is_no_json_of_settings_is_told(tmp_path, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        open_json(written(tmp_path, text))


def test_a_file_that_is_not_there_is_no_fault_of_its_content(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_json(tmp_path / "config.json")


@NEEDS_PIPES
def test_only_ordinary_files_are_opened(tmp_path):
    place = tmp_path / "config.json"
    os.mkfifo(place)  # opening it would wait for ever
    with pytest.raises(ValueError, match="is no ordinary file"):
        open_json(place)
    place.unlink()
    place.symlink_to("/dev/zero")  # reading it would never end
    with pytest.raises(ValueError, match="is no ordinary file"):
        open_json(place)
    place.unlink()
    place.symlink_to(place)
    with pytest.raises(OSError, match="symbolic link"):
        open_json(place)
    place.unlink()
    place.mkdir()
    with pytest.raises(ValueError, match="is no ordinary file"):
        open_json(place)


@NEEDS_PIPES
def test_a_link_to_a_file_is_that_file(tmp_path):
    """As in the cache of huggingface_hub, whose files are links to others outside the folder."""
    (tmp_path / "blob").write_text("[3]")
    (tmp_path / "config.json").symlink_to(tmp_path / "blob")
    assert open_json(tmp_path / "config.json") == [3]


def test_messages_show_what_cannot_be_seen():
    assert shown("a caf\u00e9 \u732b \U0001f431") == "a caf\u00e9 \u732b \U0001f431"
    assert shown("a\nb\x1b[31m\x00\u202e\u200b\x7f") == r"a\nb\x1b[31m\x00\u202e\u200b\x7f"
    assert shown("x" * 9999) == "x" * 400 + "..."
