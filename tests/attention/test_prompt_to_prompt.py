"""Maps between the tokens of two prompts, by hand, and cross-attention by them in a real UNet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescore.attention.layers import Entry
from rescore.attention.prompt_to_prompt import cross_control, refine_mapper, reweighted, swap_mapper
from rescore.attention.unet.layers import UNetLayers
from rescore.attention.unet.sites import find_sites
from rescore.pipelines.models.text import encode_prompt
from rescore.pipelines.models.words import words_of
from rescore.shapeworld.tokenizer import load_tokenizer, write_tokenizer
from tiny_models import WINDOW, tiny_text_encoder, tiny_unet

LENGTH = 9


def entries(tokens):
    """The non-zero entries of a mapper."""
    return {(i, j): tokens.mapper[i, j].item() for i, j in tokens.mapper.nonzero().tolist()}


def diagonal(*positions):
    return {(i, i): 1.0 for i in positions}


def test_a_swap_of_single_tokens_is_the_identity():
    tokens = swap_mapper([(1,), (2,), (3,)], [(1,), (2,), (3,)], LENGTH)
    assert entries(tokens) == diagonal(*range(LENGTH))
    assert torch.equal(tokens.own, torch.zeros(LENGTH, dtype=torch.float64))


def test_a_word_for_a_longer_one():
    """start a wolf runs end pad pad pad pad -> start a hus ky runs end pad pad pad."""
    tokens = swap_mapper([(1,), (2,), (3,)], [(1,), (2, 3), (4,)], LENGTH)
    expected = diagonal(0, 1) | {(2, 2): 0.5, (2, 3): 0.5}
    expected |= {(i, i + 1): 1.0 for i in range(3, LENGTH - 1)}
    assert entries(tokens) == expected


def test_a_word_for_a_shorter_one():
    tokens = swap_mapper([(1,), (2, 3, 4)], [(1,), (2,)], LENGTH)
    expected = diagonal(0, 1) | {(2, 2): 1.0, (3, 2): 1.0, (4, 2): 1.0}
    expected |= {(i + 2, i): 1.0 for i in range(3, LENGTH - 2)}
    assert entries(tokens) == expected
    assert tokens.own.tolist() == [0] * 7 + [1] * 2  # no padding of the source is left for these


def test_words_of_equally_many_tokens_are_swapped_token_for_token():
    """start a hus ky runs end ... -> start a rot tweil runs end ..."""
    source = [(1,), (2, 3), (4,)]
    assert entries(swap_mapper(source, source, LENGTH)) == diagonal(*range(LENGTH))
    moved = swap_mapper([(1,), (3, 4)], [(1, 2), (3, 4)], LENGTH)
    assert entries(moved) == diagonal(0, 3, 4, 5, 6, 7, 8) | {(1, 1): 0.5, (1, 2): 0.5}


@pytest.mark.parametrize(
    "prompt",
    [
        "a motorcyclist rides a motorbike",
        "a hippopotamus in a swimmingpool",
        "café, 1990s: red-circle 🐱",
        "",
    ],
)
def test_a_prompt_swapped_with_itself_stays_as_it_is(tmp_path, prompt):
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    read = encode_prompt(tokenizer, tiny_text_encoder(len(tokenizer)), prompt)
    places = [positions for _, positions in words_of(read)]
    tokens = swap_mapper(places, places, WINDOW)
    assert torch.equal(tokens.mapper, torch.eye(WINDOW, dtype=torch.float64))
    assert not tokens.own.any()


def test_a_swap_keeps_the_attention_of_a_word():
    source, target = [(1,), (2, 3)], [(1, 2), (3, 4, 5)]
    tokens = swap_mapper(source, target, LENGTH)
    maps = torch.rand(2, 3, 5, LENGTH, dtype=torch.float64)
    moved = tokens(maps, torch.rand_like(maps))
    for old, new in zip(source, target, strict=True):
        torch.testing.assert_close(moved[..., list(new)].sum(-1), maps[..., list(old)].sum(-1))


def test_commas_between_words_are_taken_over():
    tokens = swap_mapper([(1,), (3,)], [(1,), (3, 4)], LENGTH)
    assert entries(tokens)[2, 2] == 1


def test_swapping_needs_as_many_words():
    with pytest.raises(ValueError, match="3 words and the target prompt 2"):
        swap_mapper([(1,), (2,), (3,)], [(1,), (2,)], LENGTH)


def refined(source, target):
    return refine_mapper(*(["<s>", *text.split(), "<e>"] for text in (source, target)), LENGTH)


def test_a_word_swapped_by_refinement_keeps_its_own_attention():
    tokens = refined("a red circle", "a blue circle")
    assert entries(tokens) == diagonal(0, 1, 3, 4, 5, 6, 7, 8)
    assert tokens.own.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_a_word_added_shifts_the_rest():
    tokens = refined("a circle", "a large red circle")
    assert tokens.own.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert entries(tokens) == diagonal(0, 1) | {(i, i + 2): 1.0 for i in range(2, 7)}


def test_a_word_left_out_shifts_the_rest_back():
    tokens = refined("a large circle", "a circle")
    assert entries(tokens) == diagonal(0, 1) | {(i + 1, i): 1.0 for i in range(2, 8)}
    assert tokens.own.tolist() == [0] * 8 + [1]


@pytest.mark.parametrize("prompt", ["", "circle", "a red circle a red circle"])
def test_equal_prompts_give_the_identity(prompt):
    tokens = refined(prompt, prompt)
    assert entries(tokens) == diagonal(*range(LENGTH))
    maps = torch.rand(3, LENGTH, dtype=torch.float64)
    assert torch.equal(tokens(maps, torch.rand_like(maps)), maps)


def test_prompts_with_nothing_in_common():
    tokens = refine_mapper(["a", "b"], ["c", "d", "e"], 5)
    assert tokens.own.tolist() == [1, 1, 1, 0, 0]


@settings(max_examples=100, deadline=None)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_alignment_is_the_longest_in_order(source, target):
    tokens = refine_mapper(list(source), list(target), 8)
    pairs = [p for p in entries(tokens) if p[0] < len(source) and p[1] < len(target)]
    assert all(source[i] == target[j] for i, j in pairs)
    assert sorted(pairs) == sorted(pairs, key=lambda p: p[1])
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert len(pairs) == longest_common(source, target)


def longest_common(a, b):
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


def test_weights_multiply():
    tokens = reweighted(refined("a red circle", "a blue circle"), {(2,): 2.0, (3, 4): -0.5})
    assert tokens.weight.tolist() == [1, 1, 2, -0.5, -0.5, 1, 1, 1, 1]
    source, target = torch.rand(2, 5, LENGTH), torch.rand(2, 5, LENGTH)
    moved = tokens(source, target)
    torch.testing.assert_close(moved[..., 2], 2 * target[..., 2])
    torch.testing.assert_close(moved[..., 3], -0.5 * source[..., 3])
    torch.testing.assert_close(moved[..., 0], source[..., 0])


@pytest.mark.parametrize(("where", "factor"), [((9,), 1.0), ((-1,), 1.0), ((1,), float("inf"))])
def test_weights_are_checked(where, factor):
    with pytest.raises(ValueError, match=r"do not lie in a text window of 9|must be a finite"):
        reweighted(refined("a", "a"), {where: factor})


FRAMES, SOURCE, EDIT = 3, 0, 1


def clips(same_clip: bool, same_text: bool):
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(2, FRAMES, 4, 6, 10, generator=generator)
    text = torch.randn(2, FRAMES, LENGTH, 12, generator=generator)  # differs from frame to frame
    z[1] = z[0] if same_clip else z[1]
    text[1] = text[0] if same_text else text[1]
    return z.flatten(0, 1), torch.tensor(500), text.flatten(0, 1)


def run(given, tokens=None):
    unet = tiny_unet("2D")
    plan = []
    if tokens is not None:
        plan = [Entry(find_sites(unet, kind="cross"), cross_control({EDIT: SOURCE}, tokens))]
    with torch.no_grad(), UNetLayers(unet).installed(plan, [SOURCE, EDIT]):
        return unet(*given).sample.unflatten(0, (2, FRAMES))


def test_a_target_of_new_words_is_read_as_it_would_be():
    given = clips(False, False)
    tokens = refine_mapper(["a"] * LENGTH, ["b"] * LENGTH, LENGTH)
    torch.testing.assert_close(run(given, tokens), run(given), atol=1e-5, rtol=1e-5)


def test_an_identity_edit_changes_nothing():
    given = clips(True, True)
    tokens = refined("a red circle", "a red circle")
    torch.testing.assert_close(run(given, tokens), run(given), atol=1e-5, rtol=1e-5)


def test_the_source_is_left_alone_and_the_edit_is_not():
    given = clips(False, False)
    result, before = run(given, refined("a red circle", "a red circle")), run(given)
    torch.testing.assert_close(result[SOURCE], before[SOURCE])
    assert (result[EDIT] - before[EDIT]).abs().max() > 1e-3
