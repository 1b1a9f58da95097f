"""Words found among the tokens of a real CLIP tokenizer, whole or in pieces."""

import unicodedata

import pytest
from rescore.pipelines.models.text import encode_prompt
from rescore.pipelines.models.words import find_word, parse_weights, words_of
from rescore.shapeworld.tokenizer import load_tokenizer, write_tokenizer
from tiny_models import tiny_text_encoder

WINDOW = 47


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """`tokens(text)`: the prompt as a text encoder with a window of `WINDOW` reads it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.model_max_length = WINDOW
    encoder = tiny_text_encoder(len(tokenizer), window=WINDOW)
    return lambda text: encode_prompt(tokenizer, encoder, text)


def spelt(prompt, positions):
    """What some tokens of a prompt spell: their bytes, by the alphabet that stands for bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_of = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    bytes_of |= {chr(256 + shift): byte for shift, byte in enumerate(others)}
    letters = "".join(prompt.tokens[at].removesuffix("</w>") for at in positions)
    return bytes(bytes_of[letter] for letter in letters).decode("utf-8")


def test_words_and_where_they_stand(tokens):
    found = words_of(tokens("A red circle, moving right."))
    assert found == [
        ("a", (1,)),
        ("red", (2,)),
        ("circle", (3,)),
        ("moving", (5,)),
        ("right", (6,)),
    ]


def test_punctuation_and_case_are_ignored(tokens):
    prompt = tokens("A red circle, moving right.")
    for wanted in ("circle", "Circle", "circle,", " CIRCLE! "):
        assert find_word(prompt, wanted) == ((3,),)


def test_a_word_of_several_tokens_is_found_whole(tokens):
    prompt = tokens("a husky moving right")
    (place,) = find_word(prompt, "husky")
    assert len(place) > 1
    assert place == tuple(range(2, 2 + len(place)))
    assert spelt(prompt, place) == "husky"


def test_a_part_of_a_word_is_not_the_word(tokens):
    with pytest.raises(ValueError, match="Its words are: a, husky"):
        find_word(tokens("a husky"), "husk")


def test_a_repeated_word_is_found_everywhere(tokens):
    assert find_word(tokens("a red circle beside a red square"), "red") == ((2,), (6,))


def test_words_in_a_row(tokens):
    prompt = tokens("a red circle beside a red square")
    assert find_word(prompt, "red square") == ((6, 7),)
    assert find_word(prompt, "red, circle") == ((2, 3),)
    with pytest.raises(ValueError, match='"circle red" is not in the prompt'):
        find_word(prompt, "circle red")


def test_hyphens_part_words(tokens):
    assert len(find_word(tokens("a red-circle"), "circle")) == 1
    assert len(find_word(tokens("a red circle"), "red-circle")[0]) == 2


def test_an_absent_word_lists_those_that_are_there(tokens):
    with pytest.raises(ValueError, match="Its words are: a, red, circle, beside"):
        find_word(tokens("a red circle beside a circle"), "wolf")


@pytest.mark.parametrize("prompt", ["", ",", "circle"])
def test_empty_and_one_word_prompts(tokens, prompt):
    there = prompt if prompt == "circle" else "none"
    with pytest.raises(ValueError, match=f"Its words are: {there}"):
        find_word(tokens(prompt), "wolf")
    assert len(words_of(tokens("circle"))) == 1


@pytest.mark.parametrize("wanted", ["", "  ", "...", "?!"])
def test_what_is_no_word_is_told(tokens, wanted):
    with pytest.raises(ValueError, match="is no word"):
        find_word(tokens("a red circle"), wanted)


def test_a_word_beyond_the_window_is_told(tokens):
    long = "red " * (WINDOW - 3)
    assert find_word(tokens(f"{long}circle"), "circle") == ((WINDOW - 2,),)
    with pytest.raises(ValueError, match=r"beyond the part of the prompt.* it reads are: red"):
        find_word(tokens(f"{long}circle beside a blue square, moving"), "square")
    with pytest.raises(ValueError, match="is not in the prompt"):
        find_word(tokens(f"{long}circle beside a blue squares"), "square")
    half_cut = tokens(f"{long}zebra")  # of which the first letter fits
    assert half_cut.tokens[-2] == "z" and words_of(half_cut)[-1][0] == "red"
    with pytest.raises(ValueError, match="beyond the part of the prompt"):
        find_word(half_cut, "zebra")


@pytest.mark.parametrize(
    ("prompt", "wanted", "letters"),
    [
        ("a café", "café", "café"),
        ("a CAFÉ.", "Café", "café"),
        ("a cafe\u0301", "caf\u00e9", "caf\u00e9"),
        ("a caf\u00e9", "cafe\u0301", "caf\u00e9"),
        ("in Zürich, a piñata", "Zürich", "zürich"),
        ("in Zürich, a piñata", "piñata", "piñata"),
        ("naïve Straße", "straße", "straße"),
        ("naïve Straße, long", "STRASSE", "straße"),
        ("a STRASSE", "Straße", "strasse"),
        ("the \ufb01ancée", "FIANCÉE", "\ufb01ancée"),
        ("in i\u0307stanbul", "İSTANBUL", "i\u0307stanbul"),
        ("in İSTANBUL, at night", "istanbul", "i\u0307stanbul"),
        ("in istanbul", "İstanbul", "istanbul"),
        ("KIRMIZI araba", "kırmızı", "kirmizi"),
        ("bir kırmızı araba", "KIRMIZI", "kırmızı"),
        ("рыжий Кот", "кот", "кот"),
        ("ΜΑΎΡΗ ΓΆΤΑ", "γάτα", "γάτα"),
        ("القط يجري", "القط", "القط"),
        ("고양이 가", "고양이", "고양이"),
        ("हिन्दी में", "हिन्दी", "हिन्दी"),
        ("a 3D car", "3D", "3d"),
        ("1990s car", "1990s", "1990s"),
        ("car 42", "42", "42"),
        ("a №5 bottle", "№5", "№5"),
        ("an x² curve", "x²", "x²"),
        ("一只红色的猫在跑", "猫", "猫"),
        ("一只红色的猫在跑", "红色", "红色"),
        ("红色, 的猫", "红色", "红色"),
        ("日本の猫", "猫", "猫"),
        ("เด็กวิ่ง", "วิ่ง", "วิ่ง"),
        ("a 🐱 runs", "🐱", "🐱"),
        ("🐱!🐶", "🐶", "🐶"),
        ("cat🐱", "cat", "cat"),
        ("cat🐱", "🐱", "🐱"),
        ("an 👩\u200d🚀", "👩\u200d🚀", "👩\u200d🚀"),
        ("a 👍🏽", "👍🏽", "👍🏽"),
        ("a red-circle", "red circle", "redcircle"),
        ("don't go", "don't", "dont"),
        ("don\u2019t go", "don't", "dont"),
        ("a \u2764\ufe0f", "\u2764", "\u2764\ufe0f"),
        ("a \u2764 here", "\u2764\ufe0f", "\u2764"),
        ("we co\u00adoperate", "cooperate", "co\u00adoperate"),
        ("we cooperate", "co\u00adoperate", "cooperate"),
        ("שלום\u200f, עולם", "שלום", "שלום\u200f"),
        ("red\u200bcar", "car", "car"),
        ("می\u200cخواهم", "می\u200cخواهم", "می\u200cخواهم"),
        ("a 👨\u200d👩\u200d👧!", "👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("a 1\ufe0f\u20e3", "1\u20e3", "1\ufe0f\u20e3"),
    ],
)
def test_words_of_all_scripts_are_found(tokens, prompt, wanted, letters):
    read = tokens(prompt)
    assert read.cut == ""
    (place,) = find_word(read, wanted)
    assert spelt(read, place) == letters


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("1990s", "990s"),
        ("1990s", "1990"),
        ("a 3D car", "D"),
        ("cafés", "café"),
        ("cafe", "café"),
        ("Кот", "ко"),
        ("고양이가", "고양이"),
        ("हिन्दी", "हिन"),
        ("catwalk🐱", "cat"),
        ("a 👨\u200d👩\u200d👧", "👩"),
        ("a 👨\u200d👩\u200d👧", "👨"),
        ("a 👍🏽", "👍"),
        ("a 👍🏽", "🏽"),
        ("เด็กวิ่ง", "ด"),
        ("cooperate", "co"),
        ("co\u00adoperate", "co"),
    ],
)
def test_a_part_of_a_word_is_not_the_word_in_any_script(tokens, prompt, wanted):
    with pytest.raises(ValueError, match=r"is not in the prompt\. Its words are: "):
        find_word(tokens(prompt), wanted)


def test_a_word_is_whole_whatever_its_tokens_are(tokens):
    read = tokens("a café, 1990s 🐱🐱")
    assert [word for word, _ in words_of(read)] == ["a", "café", "1990s", "🐱🐱"]
    assert [spelt(read, at) for _, at in words_of(read)] == ["a", "café", "1990s", "🐱🐱"]
    assert len(find_word(read, "🐱")) == 2


def test_places_may_overlap(tokens):
    assert find_word(tokens("red red red"), "red red") == ((1, 2), (2, 3))


def test_every_word_of_a_prompt_is_found_by_its_name(tokens):
    prompt = unicodedata.normalize("NFD", "Ein Café: naïve 3D-Katze №5 🐱")
    read = tokens(prompt)
    assert len(words_of(read)) == 7
    for word, place in words_of(read):
        assert find_word(read, word) == (place,)


def test_weights_of_words():
    assert parse_weights("white: 2, red circle:0.5\n\n a : -1;") == {
        "white": 2.0,
        "red circle": 0.5,
        "a": -1.0,
    }
    assert parse_weights("  \n") == {}


@pytest.mark.parametrize(
    "text", ["white", "white 2", ": 2", "white: x", "white: inf", "white: nan"]
)
def test_what_is_no_weight_is_told(text):
    with pytest.raises(ValueError, match="is no weight of a word"):
        parse_weights(text)
    with pytest.raises(ValueError, match="two weights"):
        parse_weights("white: 1, white: 2")


@pytest.mark.parametrize("again", ["White", "white!", " WHITE", "wh\u00adite"])
def test_a_word_is_told_to_have_two_weights_however_it_is_written(again):
    with pytest.raises(ValueError, match=f'"{again.strip()}" is given two weights'):
        parse_weights(f"white: 1\n{again}: 2")
