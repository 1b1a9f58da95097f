"""Prompts become what the text encoder makes of them; what does not fit its window is told."""

import logging

import pytest
import torch
from rescore.pipelines.models.text import spans_of
from rescore.pipelines.models.words import words_of
from rescore.shapeworld.models import load_shapeworld
from tiny_models import TEXT_WIDTH, WINDOW


def test_prompt_becomes_the_encoders_last_hidden_states(load):
    backbone = load("text-to-video")
    tokenizer, encoder = backbone.tokenizer, backbone.text_encoder
    ids = tokenizer(["a red circle"], padding="max_length", max_length=WINDOW, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(ids.input_ids).last_hidden_state
    found = backbone.encode_prompt("a red circle")
    assert torch.equal(found.embedding, expected)
    assert found.embedding.shape == (1, WINDOW, TEXT_WIDTH)
    assert not found.embedding.requires_grad
    assert [token.removesuffix("</w>") for token in found.tokens[1:-1]] == ["a", "red", "circle"]
    assert found.cut == ""


def test_empty_prompt_is_padding_alone(load):
    backbone = load("image")
    found = backbone.encode_prompt("")
    assert found.tokens == (backbone.tokenizer.bos_token, backbone.tokenizer.eos_token)
    assert found.embedding.shape == (1, WINDOW, TEXT_WIDTH) and found.cut == ""


def test_what_does_not_fit_the_window_is_cut_and_told(load, caplog):
    backbone = load("image")
    fits = " ".join(["red"] * (WINDOW - 2))
    whole = backbone.encode_prompt(fits)
    assert (len(whole.tokens), whole.cut, caplog.records) == (WINDOW, "", [])
    with caplog.at_level(logging.WARNING, "rescore"):
        cut = backbone.encode_prompt(f"{fits} blue ring")
    assert cut.cut == "blue ring"
    assert cut.tokens == whole.tokens
    assert torch.equal(cut.embedding, whole.embedding)
    assert "'blue ring'" in caplog.text and f"{WINDOW - 2} tokens" in caplog.text


def test_a_tokenizer_without_a_limit_of_its_own_keeps_to_the_window(load):
    backbone = load("image")
    backbone.tokenizer.model_max_length = 8192
    found = backbone.encode_prompt(" ".join(["red"] * 40))
    assert found.embedding.shape == (1, WINDOW, TEXT_WIDTH)
    assert found.cut == " ".join(["red"] * (40 - WINDOW + 2))


@pytest.mark.parametrize(
    "text",
    ["a red circle, moving right", "", "  two  blanks ", "(a) 1990s zigzag", "红圈 café 🌈"],
)
def test_words_by_spans_of_beginnings_have_the_tokens_that_the_tokenizer_tells(text):
    """The tokenizer of the shape world takes apart what it does not know, letter by letter."""
    model = load_shapeworld("shapeworld-t2v")
    told = model.encode_prompt(text)
    found = told._replace(
        spans=spans_of(lambda part: [*model.tokenizer(part)["input_ids"], 0, 0, 0], told.text)
    )
    assert len(found.spans) == len(told.spans) - 1  # without the end
    assert words_of(found) == words_of(told)
