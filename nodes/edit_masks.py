"""Nodes that make a mask from the model's own predictions or attention."""

from . import host
from .masks import CATEGORY
from .running import prepared
from .shared import CFG, NOISE_SEED, PROMPT_PAIR, SOURCE_LATENT, WINDOWS
from .sockets import MODEL, PROMPTS, TERMS
from .widgets import BOOLEAN, COMBO, FLOAT, INT, SOCKET, STRING, Input, Node, outputs


def _looks(t_min: float, t_max: float, timesteps: int) -> dict[str, Input]:
    """The inputs for the noise levels at which the model looks at the clip, and for draws."""
    return {
        "t_min": FLOAT(t_min, 0, 1, 0.01,
            "The lowest timestep looked at, as a share of the schedule. Low ones show outlines. If "
            "the mask is full of holes, raise it.", advanced=True),
        "t_max": FLOAT(t_max, 0, 1, 0.01,
            "The highest timestep looked at. High ones show where things roughly are. If the mask "
            "is a blot, lower it; above 0.8 little is left to see.", advanced=True),
        "timesteps": INT(timesteps, 1, 100,
            "How many timesteps from t_min to t_max are averaged. If "
            "the mask is speckled, raise it; time grows alike.", advanced=True),
        "draws": INT(1, 1, 100,
            "Noises averaged at each timestep. 1 is enough for a clip; for a single frame raise it "
            "to 5 or 10 if the mask changes with the seed.", advanced=True),
        "seed": NOISE_SEED("mask"),
    }  # fmt: skip


def _threshold(level: float, smooth: float) -> dict[str, Input]:
    """The inputs for the threshold that makes a mask from a map."""
    return {
        "threshold": COMBO(["level", "otsu", "quantile"],
            "How the map is cut. level: at a share of its strongest place. otsu: where it falls "
            "apart best into two. quantile: so that a fixed share stays black, for objects whose "
            "size you know."),
        "level": FLOAT(level, 0, 1, 0.01,
            "Only with threshold level: the share of the way from the weakest to the strongest "
            "place. If the mask is too small, lower it; if it spills over, raise it."),
        "quantile": FLOAT(0.9, 0, 1, 0.01,
            "Only with threshold quantile: the share that stays black. 0.9 leaves a tenth of the "
            "picture white."),
        "per_frame": BOOLEAN(False,
            "Cut every frame by itself. Off, all frames are cut alike, and an object that leaves "
            "the picture leaves the mask; on, each frame has some white."),
        "smooth": FLOAT(smooth, 0, 16, 0.25,
            "Blur of the map before it is cut, in latent pixels (8 pixels of the clip with the big "
            "models). If the mask has holes or specks, raise it; 0 is none."),
    }  # fmt: skip


def _cut(values, threshold, smooth: float, grid):
    """The mask of a map and the map as pictures in 0..1, both in the clip's size, and a report."""
    from einops import rearrange

    from ..pipelines.masks.thresholds import smoothed

    pixels = grid.on_pixels(smoothed(values.cpu(), smooth))
    mask = threshold(pixels)
    shown = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    pictures = rearrange(shown, "f h w -> f h w 1").expand(-1, -1, -1, 3)
    shares = mask.mean(dim=(1, 2))
    report = f"White: {100 * mask.mean():.1f} % of the clip"
    if len(mask) > 1:
        report += f", {100 * shares.min():.1f} to {100 * shares.max():.1f} % of a frame"
    return (mask, pictures, report + ".")


class MaskFromGradient(Node):
    TITLE = "Mask from Gradient"
    SEARCH_ALIASES = ["DiffEdit", "automatic mask", "auto mask", "edit mask"]
    DESCRIPTION = (
        "Makes the edit mask from what the terms want: the energy of their gradient at the source "
        "clip, averaged over timesteps and noises, and cut. With Delta Denoising this is the mask "
        "of DiffEdit (Couairon et al., 2023): where the prompts disagree about the clip. Needs no "
        "other model. Look at it with Show Mask before you edit with it."
    )
    CATEGORY = CATEGORY
    FUNCTION = "make"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "White where the terms act, one mask per frame, of the clip's size."),
        energy=("IMAGE", "The map before it was cut, bright where the gradient is strong."),
        report=("STRING", "How much of the clip is white."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "The model that the terms ask."),
        "prompts": SOCKET(PROMPTS,
            "From Encode Prompt Pair, same model. The two prompts must differ in what is to "
            "change, and in nothing else."),
        "latent": SOURCE_LATENT,
        "terms": SOCKET(TERMS, "The terms to follow: Delta Denoising, or those of your edit."),
        **_looks(0.2, 0.8, 4),
        "cfg": CFG,
        **_threshold(0.35, 1),
    }  # fmt: skip
    OPTIONAL = WINDOWS

    def make(
        self, model, prompts, latent, terms, t_min: float, t_max: float, timesteps: int,
        draws: int, seed: int, cfg: float, threshold: str, level: float, quantile: float,
        per_frame: bool, smooth: float, window: int = 0, overlap: int = 4,
    ):  # fmt: skip
        from ..pipelines.masks.edit_masks import Looks, gradient_map
        from ..pipelines.masks.thresholds import Threshold

        cut = Threshold(threshold, level, quantile, per_frame)
        looks = Looks(t_min, t_max, timesteps, draws, seed)
        ready = prepared(model, latent, rows=4)
        values = ready.run(
            lambda denoiser: gradient_map(
                ready.z,
                terms,
                denoiser,
                prompts.embeddings,
                cfg,
                looks,
                windows=ready.windows(window, overlap),
                grid=ready.grid,
                on_draw=host.progress(looks.count),
            )
        )
        return _cut(values, cut, smooth, ready.grid)


class MaskFromWords(Node):
    TITLE = "Mask from Words"
    SEARCH_ALIASES = ["attention map", "cross-attention mask", "DAAM", "word to mask"]
    DESCRIPTION = (
        "Makes a mask of what the model sees for words of the prompt, such as: circle. Its text "
        "cross-attention at the source clip is averaged over heads, layers, timesteps and noises, "
        "and cut. Needs no other model. Look at it with Show Mask before you edit with it."
    )
    CATEGORY = CATEGORY
    FUNCTION = "make"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        mask=("MASK", "White where the words are seen, one mask per frame, of the clip's size."),
        attention=("IMAGE", "The map before it was cut, bright where the words are read most."),
        report=("STRING", "How much of the clip is white."),
    )
    REQUIRED = {
        "model": SOCKET(MODEL, "The model that reads the prompt."),
        "prompts": PROMPT_PAIR,
        "latent": SOURCE_LATENT,
        "words": STRING("circle",
            "Words of the prompt, or several in a row, separated by commas. An object's noun with "
            "its colour (red circle) is found best. If too much is white, name fewer words."),
        "prompt": COMBO(["source", "target"],
            "The prompt in which the words stand. source: what the clip shows now. target shows "
            "where the model would put the new thing."),
        **_looks(0.2, 0.6, 3),
        **_threshold(0.5, 0),
        "max_tokens": INT(1024, 1, 65536,
            "The finest layers with at most so many tokens a frame are read: 1024 is 32 x 32. If "
            "the mask is ragged, lower it to 256. Transformers such as Wan have one size of layer, "
            "which is read whatever this is.", advanced=True),
        "sites": STRING("*",
            "The cross-attention layers looked at: * is all, decoder those of the decoder; or "
            "name patterns. If the mask is off, try decoder; an error lists the names.",
            advanced=True),
    }  # fmt: skip
    OPTIONAL = WINDOWS

    def make(
        self, model, prompts, latent, words: str, prompt: str, t_min: float, t_max: float,
        timesteps: int, draws: int, seed: int, threshold: str, level: float, quantile: float,
        per_frame: bool, smooth: float, max_tokens: int, sites: str, window: int = 0,
        overlap: int = 4,
    ):  # fmt: skip
        from ..pipelines.masks.edit_masks import Looks, word_map
        from ..pipelines.masks.thresholds import Threshold
        from ..pipelines.models.words import find_word

        cut = Threshold(threshold, level, quantile, per_frame)
        looks = Looks(t_min, t_max, timesteps, draws, seed)
        host.load(model, "text_encoder")
        read = model.encode_prompt(getattr(prompts, prompt))
        wanted = [word.strip() for word in words.split(",") if word.strip()] or [words]
        found = {at for word in wanted for at in find_word(read, word)}
        ready = prepared(model, latent)
        values = ready.run(
            lambda denoiser: word_map(
                ready.z,
                sorted({position for positions in found for position in positions}),
                getattr(prompts.embeddings, prompt),
                denoiser,
                looks,
                sites=sites,
                max_tokens=max_tokens,
                windows=ready.windows(window, overlap),
                on_draw=host.progress(looks.count),
            )
        )
        return _cut(values, cut, smooth, ready.grid)


NODE_CLASS_MAPPINGS = {
    "ReScoreMaskFromGradient": MaskFromGradient,
    "ReScoreMaskFromWords": MaskFromWords,
}
