"""The node that reconstructs a clip from its trajectory and measures the result."""

from . import host, layouts
from .inversion import CATEGORY
from .running import along, decoded
from .shared import INVERTED
from .sockets import NULL_TEXT
from .widgets import FLOAT, SOCKET, Node, outputs


class Reconstruct(Node):
    TITLE = "Reconstruct"
    SEARCH_ALIASES = ["test inversion", "reconstruct video", "sample from noise"]
    DESCRIPTION = (
        "Denoises from a trajectory's noise under the source prompt, with the null-text embeddings "
        "and guidance if given, and measures how well the clip is found back. An edit can keep of "
        "the clip what this keeps, and no more."
    )
    CATEGORY = CATEGORY
    FUNCTION = "reconstruct"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = outputs(
        latent=("LATENT", "The reconstructed latents."),
        images=("IMAGE", "The reconstructed clip."),
        psnr=("FLOAT", "Its closeness to the clip in dB: 30 looks alike, below 20 other."),
        report=("STRING", "The same in words, beside what the VAE alone would reach."),
    )
    REQUIRED = {
        **INVERTED,
        "cfg": FLOAT(8.5, 0, 30, 0.1,
            "Guidance, the same as in Null-Text Optimisation: 8.5 to start with. Without null-text "
            "embeddings only 1 finds the clip back well."),
    }  # fmt: skip
    OPTIONAL = {
        "null_text": SOCKET(NULL_TEXT,
            "From Null-Text Optimisation. Without it, the negative prompt."),
        "images": SOCKET("IMAGE",
            "The clip to compare with. Without it, what the VAE makes of the clip is compared "
            "with."),
    }  # fmt: skip

    def reconstruct(self, model, prompts, trajectory, cfg: float, null_text=None, images=None):
        from ..pipelines.inversion.attention_sampling import sample_edit
        from ..pipelines.measures.fidelity import psnr
        from ..pipelines.measures.region import region

        ready, path = along(model, prompts, trajectory, rows=2)
        show = ready.shows(path.steps)
        pair = prompts.embeddings
        z = ready.run(
            lambda denoiser: sample_edit(
                path,
                denoiser,
                pair._replace(target=pair.source),
                cfg,
                null_text=null_text,
                windows=trajectory.windows,
                on_step=lambda now: show(now.step, now.z),
            )
        )
        host.load(model, "vae")
        found, alone = (
            decoded(
                model,
                layouts.samples_of(latents, model),
                size=trajectory.pixel_size,
                frames=trajectory.frames,
            )
            for latents in (z, path.latents[0])
        )
        clip = alone if images is None else layouts.clip_from_image(images).to(alone)
        if clip.shape != found.shape:
            raise ValueError(
                f"The images to compare with are {clip.shape[2]} frames of {clip.shape[4]} x "
                f"{clip.shape[3]}, the clip that was inverted {found.shape[2]} frames of "
                f"{found.shape[4]} x {found.shape[3]}. Wire the clip that was encoded."
            )
        everywhere = region(None, *clip.shape[2:])
        reached = psnr(clip, found, everywhere).value
        report = f"Reconstruction: {reached:.2f} dB"
        if images is None:
            report += ", compared with what the VAE makes of the clip."
        else:
            report += f". The VAE alone: {psnr(clip, alone, everywhere).value:.2f} dB."
        latent = ready.latent(z)
        return (latent, layouts.image_from_clip(found), reached, report)


NODE_CLASS_MAPPINGS = {"ReScoreReconstruct": Reconstruct}
