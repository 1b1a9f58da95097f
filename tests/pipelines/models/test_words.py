"""Words found among the tokens of a real CLIP tokenizer, whole or in pieces."""

import pytest
from rescore.pipelines.models.words import find_word, parse_weights, words_of
from rescore.shapeworld.tokenizer import load_tokenizer, write_tokenizer


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    return lambda text: tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


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
    assert "".join(prompt[i] for i in place) == "husky</w>"


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
    with pytest.raises(ValueError, match="beyond the part of the prompt"):
        find_word(tokens("a red circle"), "square", cut="beside a blue square, moving")
    with pytest.raises(ValueError, match="is not in the prompt"):
        find_word(tokens("a red circle"), "square", cut="beside a blue squares")


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
