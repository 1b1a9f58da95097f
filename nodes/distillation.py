"""The node that runs the distillation loop."""

from . import host, layouts
from .running import prepared
from .shared import CFG, PROMPT_PAIR, SEED, SOURCE_LATENT, WINDOWS
from .sockets import FUSION, LOSSES, MODEL, STATE, TERMS
from .widgets import BOOLEAN, COMBO, FLOAT, INT, SOCKET, Node, outputs


class ScoreDistillation(Node):
    TITLE = "Score Distillation"
    SEARCH_ALIASES = ["video to video", "edit video", "restyle", "DDS", "inpaint video", "SDS"]
    DESCRIPTION = (
        "Edits a clip by descending on its own latents: every step draws one noise and one "
        "timestep, asks the model for what the connected terms need in one batched call, and moves "
        "the latents along the sum of their gradients. Starts from the clip itself, so what the "
        "terms leave alone stays."
    )
    CATEGORY = f"{host.CATEGORY}/distillation"
    FUNCTION = "run"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        latent=("LATENT", "The edited latents, for Video VAE Decode."),
        state=(STATE, "Where the run stands: wire it to another Score Distillation to go on."),
        losses=(LOSSES,
            "One number per step: the terms' magnitudes added up. For the host's Plot Loss Graph."),
    )  # fmt: skip
    REQUIRED = {
        "model": SOCKET(MODEL, "The model whose predictions guide the edit."),
        "prompts": PROMPT_PAIR,
        "latent": SOURCE_LATENT,
        "terms": SOCKET(TERMS, "What drives the edit: one or more term nodes."),
        "steps": INT(200, 0, 10000,
            "Optimisation steps; each is one batched model call. 200 in the papers; 50 to 100 show "
            "where an edit is going."),
        "step_size": FLOAT(0.4, 0, 10, 0.001,
            "How far each step goes along the gradient. DreamMotion 0.4, ASSD 0.1. If nothing "
            "changes, raise it or steps; if colours burn or "
            "the picture breaks up, lower it. 0 edits nothing.", round=0.0001),
        "cfg": CFG,
        "seed": SEED,
        "t_min": FLOAT(0.05, 0, 1, 0.01,
            "Timesteps are drawn from here on (share of the schedule). Low timesteps refine "
            "detail."),
        "t_max": FLOAT(0.95, 0, 1, 0.01,
            "Timesteps are drawn up to here. High timesteps change layout and colour; lower it to "
            "stay closer to the source."),
        "optimiser": COMBO(["sgd", "adam"],
            "sgd is what the papers use. adam makes all latents move "
            "equally fast: use a step_size around 0.02 with it.", advanced=True),
    }  # fmt: skip
    OPTIONAL = {
        "mask": SOCKET("MASK",
            "White may change; where it is black the latents stay exactly the source's. One mask "
            "for the clip or one per frame, at any resolution."),
        "state": SOCKET(STATE,
            "A state to go on from: 70 steps and then 50 more equal 120 at once, in random order "
            "and if no term starts late or ends early. The seed is then the state's."),
        "fusion": SOCKET(FUSION,
            "Controls, from Attention Fusion: the edit also attends to the source."),
        **WINDOWS,
        "checkpointing": BOOLEAN(True,
            "For terms that read the model's attention (self-similarity, consistency): activations "
            "are computed a second time instead of kept, which takes far less memory. The edit is "
            "the same; off is a bit faster.", advanced=True),
        "order": COMBO(["random", "descending"],
            "random: every step draws its noise level anew, as in the papers on distillation. "
            "descending: from t_max down to t_min in even steps, as FlowEdit does: fewer steps "
            "will do, and step_size 1 goes all the way."),
        "source_cfg": FLOAT(-1, -1, 100, 0.1,
            "Guidance of the source's prediction; -1 is the same as cfg. FlowEdit and DFVEdit take "
            "less than cfg, which also edits what both prompts share. If the whole clip drifts, go "
            "back to -1."),
        "guidance": COMBO(["usual", "source as negative"],
            "usual: both predictions are guided away from the negative prompt. source as "
            "negative: the edit is guided away from the source prompt, as in FlowAlign; three rows "
            "in place of four."),
        "noise_memory": FLOAT(0, 0, 1, 0.05,
            "Part of the noise's variance that stays from step to step. 0 draws fresh noise, 1 "
            "keeps the first. If the edit flickers or is soft, try 0.5.", advanced=True),
        "draws": COMBO(["one", "weighted", "best against worst"],
            "one noise a step; or several, weighted by how near to the source each leads "
            "(DynaEdit), or their mean, moved further away from a single one (FlowDirector). "
            "Several cost as many calls."),
        "draw_count": INT(4, 2, 64, "Noises of a step, where draws is not one.", advanced=True),
        "draw_steps": INT(0, 0, 10000,
            "Steps, from the first on, that draw several noises; 0 is all of them. DynaEdit: 3.",
            advanced=True),
        "stop_after": INT(0, 0, 10000,
            "Ends after so many of the steps; 0 is all. Wire the state to another Score "
            "Distillation with the same settings to go on, with the same result as in one run.",
            advanced=True),
    }  # fmt: skip

    def run(
        self, model, prompts, latent, terms, steps: int, step_size: float, cfg: float, seed: int,
        t_min: float, t_max: float, optimiser: str, mask=None, state=None, fusion=(),
        window: int = 0, overlap: int = 4, checkpointing: bool = True, order: str = "random",
        source_cfg: float = -1.0, guidance: str = "usual", noise_memory: float = 0.0,
        draws: str = "one", draw_count: int = 4, draw_steps: int = 0, stop_after: int = 0,
    ):  # fmt: skip
        import torch

        from ..pipelines.distillation.score_distillation import Progress, Settings, distil
        from ..pipelines.unchanged import same_prompts, why_not_distilled

        ready = prepared(model, latent, rows=4)
        settings = Settings(
            steps, step_size, cfg, seed, t_min, t_max, optimiser, order,
            None if source_cfg < 0 else source_cfg, guidance, noise_memory, draws, draw_count,
            draw_steps, stop_after,
        )  # fmt: skip
        mask = None if mask is None else layouts.masks_of(mask)
        shows = ready.shows(min(stop_after or steps, steps))
        done_before = 0 if state is None else state.step

        def show(progress: Progress) -> None:
            shows(progress.step - done_before, progress.z, progress.values)

        def work(denoiser):
            with denoiser.checkpointed(checkpointing):
                return distil(
                    ready.z,
                    terms,
                    denoiser,
                    prompts.embeddings,
                    settings,
                    controls=fusion,
                    windows=ready.windows(window, overlap),
                    spread=host.spread(),
                    mask=mask,
                    grid=ready.grid,
                    state=state,
                    on_step=show,
                )

        state = ready.run(work)
        ready.tell(
            why_not_distilled(
                state.z,
                ready.z,
                terms,
                same_prompts(prompts.embeddings),
                settings,
                ready.grid,
                mask,
            )
        )
        edited = layouts.samples_of(state.z, model)
        # Scaling to model latents and back rounds: what was not edited is returned as it came.
        untouched = layouts.samples_of_unscaled(state.z == ready.z, model).to(edited.device)
        edited = torch.where(untouched, latent["samples"].to(edited), edited)
        losses = {"loss": [sum(values.values()) for values in state.values]}
        return ({**latent, "samples": edited}, state, losses)


NODE_CLASS_MAPPINGS = {"ReScoreScoreDistillation": ScoreDistillation}
