"""The rows of the table of flow models: which terms and settings each method is."""

from dataclasses import dataclass, replace

from einops import rearrange
from measuring import shipped
from rescore.nodes.assd import window_weights
from rescore.nodes.strength import EditStrength
from rescore.pipelines.distillation.adaptive_sliding import AdaptiveSliding
from rescore.pipelines.distillation.delta_denoising import DeltaDenoising
from rescore.pipelines.distillation.direction import DirectionCorrection
from rescore.pipelines.distillation.score_distillation import Settings
from rescore.pipelines.distillation.self_similarity import SpatialSelfSimilarity
from rescore.pipelines.distillation.source_pull import SourcePull
from rescore.pipelines.distillation.terms import Term, Weighted
from rescore.pipelines.flow.estimation import estimate_flow
from rescore.pipelines.flow.smoothing import FlowSmoothing
from rescore.pipelines.models.grid import ClipGrid
from rescore.shapeworld.edits import Edit, edited

MODEL = "shapeworld-wan"
FRAMES = 9
GRID = ClipGrid((3, 8, 8), (64, 64), factor=8, stride=4)


@dataclass(frozen=True)
class Run:
    """The settings that the rows share, from the graph `wan_edit`.

    The guidance of both predictions is `cfg`. In the rows of other papers, which ask for more, that
    of the target's is `papers_cfg`, and the source's is the share of it that the authors take. In
    FlowAlign's it acts twice.
    """

    steps: int = shipped("wan_edit", "ScoreDistillation", "steps")
    cfg: float = shipped("wan_edit", "ScoreDistillation", "cfg")
    eta: float = shipped("wan_edit", "DeltaDenoising", "eta")
    t_max: float = shipped("wan_edit", "ScoreDistillation", "t_max")
    papers_cfg: float = shipped("wan_flowedit", "ScoreDistillation", "cfg")
    random_steps: int = 40  # of the row that draws its levels at random, as the papers on DDS do
    random_step: float = 0.4
    align_cfg: float = shipped("wan_flowalign", "ScoreDistillation", "cfg")
    align_t_max: float = shipped("wan_flowalign", "ScoreDistillation", "t_max")
    pull: float = shipped("wan_flowalign", "SourcePull", "weight")  # FlowAlign's zeta
    similarity: float = shipped("wan_dreammotion", "SpatialSelfSimilarity", "weight")
    strength: float = shipped("wan_edit", "FlowSmoothing", "strength")


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    term: Term
    settings: Settings
    parts: tuple[str, ...] = ()  # what is added to the term: see `terms_of`


@dataclass(frozen=True)
class Truth:
    """The row of the true clip, encoded and decoded: as near as any edit can come to it."""


# Of the plot: how much of the edit is moved back, and whether that rises; how strong guidance is.
ETAS = {"0": (0.0, False), "0.25": (0.25, False), "1": (1.0, False), "rising to 1": (1.0, True)}
CFGS = (2.0, 3.0, 6.0)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

# The recommended loop; each of the last rows adds a part to it.
DEFAULT = "delta denoising, eta 0.25"
ADDED = {
    DEFAULT: ("+ mask", "+ flow smoothing", "+ self-similarity", "+ source pull"),
    "weight eps": ("+ ASSD window",),
}
SLIDING = AdaptiveSliding(
    weights=window_weights(shipped("native_assd", "AdaptiveSliding", "window")),
    tau=shipped("native_assd", "AdaptiveSliding", "tau"),
)
VELOCITY = DeltaDenoising(weighting="velocity")
FLOWEDIT = replace(VELOCITY, eta=1.0)


def methods_of(run: Run) -> dict[str, Method | Truth | None]:
    """By their names in the table; None edits nothing."""
    drawn = Settings(run.random_steps, run.random_step, run.papers_cfg)
    falling = Settings(run.steps, 1.0, run.cfg, 0, 0.0, run.t_max, order="descending")

    def like(published_cfg: float, published_source_cfg: float, t_max: float) -> Settings:
        source_cfg = run.papers_cfg * published_source_cfg / published_cfg
        return replace(falling, cfg=run.papers_cfg, source_cfg=source_cfg, t_max=t_max)

    default = replace(VELOCITY, eta=run.eta)
    director = replace(like(10.5, 3.5, 0.8), draws="best against worst", draw_count=4)
    dyna = replace(
        like(8.5, 4.5, 1.0), noise_memory=0.5, draws="weighted", draw_count=5, draw_steps=3
    )
    align = replace(
        falling, cfg=run.align_cfg, t_max=run.align_t_max, guidance="source as negative"
    )
    return {
        "no edit": None,
        "the truth, through the autoencoder": Truth(),
        "DDS, random levels": Method(DeltaDenoising(), drawn),
        "eta 0": Method(VELOCITY, falling),
        DEFAULT: Method(default, falling),
        "eta 0.5": Method(replace(VELOCITY, eta=0.5), falling),
        "eta 1": Method(FLOWEDIT, falling),
        "eta rising to 1": Method(replace(FLOWEDIT, rising=True), falling),
        "weight eps": Method(DeltaDenoising(), falling),
        "FlowEdit": Method(FLOWEDIT, like(13.5, 3.5, 0.66)),
        "Wan-Edit": Method(FLOWEDIT, like(12.0, 5.0, 0.7)),
        "DRFS": Method(replace(FLOWEDIT, rising=True), like(16.5, 6.0, 1.0)),
        "FlowAlign": Method(FLOWEDIT, align, ("pull",)),
        "DFVEdit": Method(replace(VELOCITY, weighting="bare velocity"), like(15.0, 5.0, 1.0)),
        "FlowDirector": Method(FLOWEDIT, director, ("direction",)),
        "DynaEdit": Method(FLOWEDIT, dyna),
        "+ mask": Method(default, falling, ("mask",)),
        "+ flow smoothing": Method(default, falling, ("smoothing",)),
        "+ self-similarity": Method(default, falling, ("similarity",)),
        "+ ASSD window": Method(SLIDING, falling),
        "+ source pull": Method(default, falling, ("pull",)),
    }


def of_eta(run: Run) -> dict[str, Method]:
    """The recommended loop with other eta and cfg."""
    default = methods_of(run)[DEFAULT]
    return {
        f"eta {name}, cfg {cfg:g}": replace(
            default,
            term=replace(default.term, eta=eta, rising=rising),
            settings=replace(default.settings, cfg=cfg),
        )
        for name, (eta, rising) in ETAS.items()
        for cfg in CFGS
    }


def of_strength(run: Run) -> dict[str, Method]:
    """What Edit Strength makes of its one number."""
    default, rows = methods_of(run)[DEFAULT], {}
    for strength in STRENGTHS:
        cfg, t_max, step_size, eta = EditStrength().settings(strength)
        settings = replace(default.settings, cfg=cfg, t_max=t_max, step_size=step_size)
        term = replace(default.term, eta=eta)
        rows[f"strength {strength:g}"] = Method(term, settings)
    return rows


def terms_of(method: Method, edit: Edit, run: Run) -> list[Weighted]:
    """The terms of a row on one clip."""
    parts, refinements = method.parts, ()
    if "smoothing" in parts:
        clip = rearrange(edited(edit).source.clip, "f h w c -> 1 c f h w")
        refinements = (FlowSmoothing(estimate_flow(clip), run.strength),)
    corrections = (DirectionCorrection(),) if "direction" in parts else ()
    terms = [Weighted(method.term, refinements=refinements, corrections=corrections)]
    if "pull" in parts:
        terms.append(Weighted(SourcePull(), run.pull))
    if "similarity" in parts:
        terms.append(Weighted(SpatialSelfSimilarity(), run.similarity))
    return terms
