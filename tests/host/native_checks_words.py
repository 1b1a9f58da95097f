"""Words of a prompt: their tokens, and where the clip shows them."""

import tempfile
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import comfy.sd1_clip
import comfy.text_encoders.wan as wan_text
import sentencepiece
import torch
from native_start import default_inputs, patcher, refused, vae
from rescore.nodes.edit_masks import MaskFromWords
from rescore.nodes.host.conditioning import PROMPT
from rescore.nodes.latents import VideoVAEEncode
from rescore.nodes.native import (
    EncodeNativePrompt,
    NativeModel,
    ShapeWorldConditioning,
)
from rescore.pipelines.masks.edit_masks import Looks, word_map
from rescore.pipelines.models.words import find_word, words_of
from rescore.shapeworld.edits import edited, suite
from rescore.shapeworld.models import load_shapeworld
from rescore.shapeworld.scene import caption


def worded(text: str) -> list:
    """What Shape-World Conditioning makes of a text, as wide as this host's Wan reads it."""
    (((embedding, named),),) = ShapeWorldConditioning().encode(text)
    width = patcher().model.diffusion_model.text_embedding[0].in_features
    return [[torch.nn.functional.pad(embedding, (0, width - embedding.shape[-1])), named]]


def seen_by(z, positions, text, looks, denoiser):
    return word_map(z, positions, text, denoiser, looks)


def check_words_are_found_in_the_clip_as_by_diffusers_wan():
    """The same map by the host's Wan and by ours; by the node it is brightest on the object."""
    # The host's clock for Wan lies higher than ours: 0.4 of it is noise of 0.84.
    settings = default_inputs(MaskFromWords) | {"t_min": 0.1, "t_max": 0.4}
    own, looks = load_shapeworld("shapeworld-wan"), Looks(0.2, 0.6, 2)
    for edit in suite("edits", 3, frames=9):
        scene, text = edited(edit).source, caption(edit.source)
        texts = {"source": worded(text), "target": worded(text), "negative": worded("")}
        model, prompts = NativeModel().take(patcher(), vae(), **texts)
        (encoded,) = VideoVAEEncode().encode(model, scene.clip, 8, "mean", 0)
        named = settings | {"words": edit.source.shape}
        mask, seen, _ = MaskFromWords().make(model, prompts, encoded, **named)
        assert mask.shape == scene.mask.shape
        inside, outside = (seen[..., 0][part].mean() for part in (scene.mask, ~scene.mask))
        assert inside > 1.2 * outside, (inside, outside)

        z, read = model.latents_in(encoded["samples"]), own.encode_prompt(text)
        places = find_word(read, edit.source.shape)
        assert find_word(model.encode_prompt(prompts.source), edit.source.shape) == places
        positions = [at for place in places for at in place]
        like_the_hosts = replace(
            own.denoiser,
            process=model.process,
            output=lambda z, sigma, cond: own.denoiser.output(z, 1000 * sigma, cond),
        )
        expected = word_map(z, positions, read.embedding, like_the_hosts, looks)
        found = model.run(z, partial(seen_by, z, positions, prompts.embeddings.source, looks))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


class Encoder:
    """A CLIP of the host's with a real tokenizer of its, and random embeddings of its tokens."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokenize(self, text: str) -> dict:
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        ((batch,),) = tokens.values()
        table = torch.randn(70000, 8, generator=torch.Generator().manual_seed(0))
        return [[table[[token for token, *_ in batch]][None], {"pooled_output": None}]]


CHINESE = "一只红色的狗在雪地里跑"  # a red dog runs in the snow


def sentence_pieces(folder: Path):
    """The host's tokenizer of Wan with a small vocabulary, learnt from captions and Chinese."""
    file = folder / "captions.txt"
    texts = [*(caption(edit.source) for edit in suite("edits", 40)), CHINESE]
    file.write_text("\n".join(texts), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(file), model_prefix=str(folder / "pieces"), vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    data = (folder / "pieces.model").read_bytes()
    return wan_text.WanT5Tokenizer(tokenizer_data={"spiece_model": data}), data


def check_words_have_the_tokens_that_wans_tokenizer_makes_of_them():
    """Held to sentencepiece's own pieces, which side by side are the text."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, data = sentence_pieces(Path(folder))
    own = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in ("a red circle, moving right", "a (large) reddish circle", CHINESE):
        ((embedding, named),) = EncodeNativePrompt().encode(Encoder(tokenizer), text)[0]
        found, pieces = named[PROMPT], own.encode(text, out_type=str)
        assert "".join(pieces).replace("▁", " ") == f" {text}"
        assert found.tokens == tuple(str(own.piece_to_id(piece)) for piece in pieces)
        ends = [len("".join(pieces[: i + 1])) - 1 for i in range(len(pieces))]
        told = found._replace(spans=tuple(pairwise([0, *ends])))
        for (word, at), (same, exact) in zip(words_of(found), words_of(told), strict=True):
            # A blank that is a piece of its own counts to the word after it.
            assert word == same and set(exact) <= set(at)
            assert {pieces[extra] for extra in set(at) - set(exact)} <= {"▁"}
        assert embedding.shape[1] == 512
    (positions,) = find_word(found, "红色")
    assert "".join(pieces[at] for at in positions).strip("▁") == "红色"


def check_words_have_the_tokens_that_clips_tokenizer_makes_of_them():
    text = "a red unicyclist, moving (very fast) rightwards"
    clip = Encoder(comfy.sd1_clip.SD1Tokenizer())
    ((embedding, named),) = EncodeNativePrompt().encode(clip, text)[0]
    numbers = [token for token, _ in clip.tokenize("unicyclist")["l"][0]]
    middle = numbers[1 : numbers.index(49407)]
    (positions,) = find_word(named[PROMPT], "unicyclist")
    assert len(middle) > 1
    assert [named[PROMPT].tokens[at] for at in positions] == [str(n) for n in middle]
    (positions,) = find_word(named[PROMPT], "very fast")
    numbers = [int(named[PROMPT].tokens[at]) for at in positions]
    assert clip.tokenizer.clip_l.tokenizer.decode(numbers) == "very fast"
    assert embedding.shape[1] == 77


def check_a_clip_of_two_text_encoders_is_told():
    class Both(Encoder):
        def tokenize(self, text: str) -> dict:
            return {"l": [[(1, 1.0)]], "t5xxl": [[(1, 1.0)]]}

    refused("l, t5xxl", EncodeNativePrompt().encode, Both(None), "a red circle")
