"""The node that shows how well a clip is found back from its trajectory."""

from typing import Any

from . import host, layouts
from .inversion import CATEGORY, fitting, latent_of, load_unet, picture_of
from .sockets import MODEL, NULL_TEXT, PROMPTS, TRAJECTORY


class Reconstruct:
    """Denoising along a trajectory without an edit."""

    DESCRIPTION = (
        "Denoises from a trajectory's noise under the source prompt, with the null-text embeddings "
        "and guidance if given, and measures how well the clip is found back. An edit can keep of "
        "the clip what this keeps, and no more."
    )
    CATEGORY = CATEGORY
    FUNCTION = "reconstruct"
    RETURN_TYPES = ("LATENT", "IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("latent", "images", "psnr", "report")
    OUTPUT_TOOLTIPS = (
        "The reconstructed latents.",
        "The reconstructed clip.",
        "Its closeness to the clip in dB: 30 looks alike, below 20 other.",
        "The same in words, beside what the VAE alone would reach.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (MODEL, {"tooltip": "The model the clip was inverted with."}),
                "prompts": (PROMPTS, {"tooltip": "The prompts it was inverted with."}),
                "trajectory": (TRAJECTORY, {"tooltip": "The inverted clip, from DDIM Inversion."}),
                "cfg": (
                    "FLOAT",
                    {
                        "default": 8.5,
                        "min": 0.0,
                        "max": 30.0,
                        "step": 0.1,
                        "tooltip": "Guidance, the same as in Null-Text Optimisation: 8.5 to start "
                        "with. Without null-text embeddings only 1 finds the clip back well.",
                    },
                ),
            },
            "optional": {
                "null_text": (
                    NULL_TEXT,
                    {"tooltip": "From Null-Text Optimisation. Without it, the negative prompt."},
                ),
                "images": (
                    "IMAGE",
                    {
                        "tooltip": "The clip to compare with. Without it, what the VAE makes of "
                        "the clip is compared with."
                    },
                ),
            },
        }

    def reconstruct(self, model, prompts, trajectory, cfg: float, null_text=None, images=None):
        from ..pipelines.inversion.attention_sampling import sample_edit
        from ..pipelines.measures.fidelity import psnr
        from ..pipelines.measures.region import region
        from ..pipelines.models.codec import decode_video

        path = fitting(trajectory, model, prompts)
        picture = picture_of(model, path.latents[0])
        load_unet(model, path.latents[0], 2)
        bar = host.progress(path.steps)
        pair = prompts.embeddings
        z = sample_edit(
            path,
            model.eps_theta,
            pair._replace(target=pair.source),
            model.schedule.alphas_bar,
            cfg,
            null_text=null_text,
            windows=trajectory.windows,
            on_step=lambda now: bar(now.step, picture and (lambda: picture(now.z))),
        )
        host.load(model, "vae")
        found, alone = (
            decode_video(
                layouts.latents_of(latent_of(trajectory, model, latents)["samples"], scale=1.0),
                model.decode_frames,
                size=trajectory.pixel_size,
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
        latent = latent_of(trajectory, model, z)
        return (latent, layouts.image_from_clip(found), reached, report)


NODE_CLASS_MAPPINGS = {"ReScoreReconstruct": Reconstruct}
NODE_DISPLAY_NAME_MAPPINGS = {"ReScoreReconstruct": "Reconstruct"}
