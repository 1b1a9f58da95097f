"""The node that samples an edit along an inverted clip."""

from . import host, layouts
from .running import along
from .shared import INVERTED
from .sockets import FUSION, NULL_TEXT, PROMPTS
from .widgets import BOOLEAN, COMBO, FLOAT, INT, SOCKET, STRING, Node, outputs

_BLACK = (
    "The mask is black everywhere: the edit reads all of the source, so that its object stays or "
    "shows through. White is what the edit changes; or leave the mask out."
)


class AttentionControlledSampling(Node):
    TITLE = "Attention-Controlled Sampling"
    SEARCH_ALIASES = [
        "video to video", "edit video", "restyle", "prompt to prompt", "VideoDirector",
    ]  # fmt: skip
    DESCRIPTION = (
        "Denoises an inverted clip under the target prompt while the source, at its stored "
        "latents, runs beside it in the same batch: first its self-attention maps set the layout "
        "(SA-I), then its background is read too (SA-II), and words that both prompts share keep "
        "their place (cross-attention control). Stage 2 of VideoDirector. With all three off it is "
        "plain DDIM sampling from the inverted noise."
    )
    CATEGORY = f"{host.CATEGORY}/sampling"
    FUNCTION = "sample"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        latent=("LATENT", "The edited latents, for Video VAE Decode."),
        report=("STRING",
            "Which controls acted in which steps, and what of mask and prompts is worth knowing."),
    )  # fmt: skip
    REQUIRED = {
        **INVERTED,
        "prompts": SOCKET(PROMPTS,
            "From Encode Prompt Pair; the source prompt as in the inversion."),
        "cfg": FLOAT(8.5, 0, 30, 0.1,
            "Guidance: uncond + cfg * (cond - uncond), the same as in Null-Text Optimisation. If "
            "the edit is too weak, raise it in both."),
        "layout_control": BOOLEAN(True,
            "SA-I: until tau_s the edit uses the source's self-attention maps. If the object "
            "cannot take its new shape, lower tau_s or switch this off."),
        "background_control": BOOLEAN(True,
            "SA-II: from tau_s on the edit also attends to the source, but not to what the mask "
            "covers. If the background changes, keep it on and lower tau_s."),
        "prompt_control": COMBO(["refine", "swap", "off"],
            "Until tau_c, words keep the place they have in the source. refine: shared words do, "
            "new ones find their own (prompts of any length). swap: each word takes its "
            "counterpart's place (equally many words). If the new word does not appear, use refine "
            "or lower tau_c."),
        "tau_s": FLOAT(0.4, 0, 1, 0.05,
            "Share of the steps after which SA-I gives way to SA-II. 0.2 to 0.5 in the paper. If "
            "nothing changes, lower it; if the layout is lost, raise it."),
        "tau_c": FLOAT(0.8, 0, 1, 0.05,
            "Share of the steps until which prompt control acts. 0.8 in the paper. If nothing "
            "changes, lower it; if words act where they should not, raise it."),
        "word_weights": STRING("",
            "Words of the target prompt to read more or less, one on each line: white: 2. Needs "
            "prompt control. If a word is ignored, give it 2 "
            "to 4; 0 leaves it out.", multiline=True),
        "layout_tokens": INT(1024, 0, 65536,
            "SA-I acts in layers of at most so many tokens a frame. 1024, 32 x 32, in the authors' "
            "code. If the old texture shows through, lower it; if fine structure is lost, 4096. "
            "Transformers such as Wan have one size of layer: all act, or none with 0.",
            step=64, advanced=True),
        "background_sites": STRING("decoder",
            "The layers SA-II acts in: decoder, as in the authors' code, or name patterns. If the "
            "background still changes, * is all layers.", advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "null_text": SOCKET(NULL_TEXT,
            "From Null-Text Optimisation, with its guidance. Without it the negative prompt is "
            "used, and the clip is kept less well."),
        "mask": SOCKET("MASK",
            "White is what the edit changes and does not read from the source; one for the clip or "
            "one per frame, at any size. For a change of shape, pass it through Ellipse Mask. "
            "Without it the old object may show."),
        "controls": SOCKET(FUSION,
            "Further controls, such as Attention Fusion, which act beside those above."),
    }  # fmt: skip

    def sample(
        self, model, prompts, trajectory, cfg: float, layout_control: bool,
        background_control: bool, prompt_control: str, tau_s: float, tau_c: float,
        word_weights: str, layout_tokens: int, background_sites: str, null_text=None, mask=None,
        controls=(),
    ):  # fmt: skip
        from ..attention.mutual import SourceBackground, SourceLayout
        from ..attention.prompt_to_prompt import PromptControl
        from ..pipelines.inversion.attention_sampling import sample_edit
        from ..pipelines.unchanged import same_prompts, why_not_sampled

        ready, path = along(model, prompts, trajectory, rows=4)
        tokens = _token_map(model, prompts, prompt_control, word_weights)
        mask = None if mask is None else layouts.masks_of(mask)
        # If the prompts are equal, the edit has no region: all of the source is read.
        same = prompts.source.strip() == prompts.target.strip()
        held = [SourceLayout(tau_s, layout_tokens)] if layout_control else []
        if background_control:
            held.append(SourceBackground(tau_s, None if same else mask, background_sites))
        if tokens is not None:
            held.append(PromptControl(tokens, tau_c))
        held += controls
        show = ready.shows(path.steps)
        z = ready.run(
            lambda denoiser: sample_edit(
                path,
                denoiser,
                prompts.embeddings,
                cfg,
                held,
                grid=ready.grid,
                null_text=null_text,
                windows=trajectory.windows,
                on_step=lambda now: show(now.step, now.z),
            )
        )
        report = _report(held, path.steps, same, background_control, mask)
        alike = same_prompts(prompts.embeddings)
        told = ready.tell(
            layouts.if_black(mask, _BLACK),
            why_not_sampled(z, path.latents[0], held, alike, cfg, path.steps),
        )
        report = "\n".join(filter(None, (report, told)))
        return (ready.latent(z), report)


def _token_map(model, prompts, prompt_control: str, word_weights: str):
    """The `TokenMap` from the source prompt to the target prompt; None without prompt control."""
    from ..attention.prompt_to_prompt import refine_mapper, reweighted, swap_mapper
    from ..pipelines.models.words import find_word, parse_weights, words_of

    weights = parse_weights(word_weights)
    if prompt_control == "off":
        if weights:
            raise ValueError(
                "word_weights act through prompt control, which is off. Choose refine or swap, or "
                "leave word_weights empty."
            )
        return None
    host.load(model, "text_encoder")
    source, target = (model.encode_prompt(text) for text in (prompts.source, prompts.target))
    length = max(prompt.embedding.shape[1] for prompt in (source, target))
    if prompt_control == "swap":
        places = [[at for _, at in words_of(prompt)] for prompt in (source, target)]
        tokens = swap_mapper(*places, length)
    else:
        tokens = refine_mapper(source.tokens, target.tokens, length)
    found = {
        places: weight for word, weight in weights.items() for places in find_word(target, word)
    }
    return reweighted(tokens, found)


def _report(controls, steps: int, same: bool, background: bool, mask) -> str:
    from ..pipelines.steps import acts

    lines = [f"{steps} steps."]
    for control in controls:
        span = control.start, control.end
        taken = [step + 1 for step in range(steps) if acts(*span, step, steps)]
        when = f"steps {taken[0]} to {taken[-1]}" if taken else "no step"
        lines.append(f"{control.name}: {when}.")
    if not controls:
        lines.append("No control: plain DDIM sampling.")
    if same:
        lines.append("Source and target prompt are the same: this reconstructs the clip.")
    elif background and mask is None:
        lines.append("The mask is missing: the edit reads all of the source.")
    elif background and bool((mask > 0).all()):
        lines.append("The mask is white everywhere: the edit reads nothing of the source in SA-II.")
    return "\n".join(lines)


NODE_CLASS_MAPPINGS = {"ReScoreAttentionControlledSampling": AttentionControlledSampling}
