"""Nodes of ComfyUI that graphs for its own models use, as far as a graph must know them.

They run in the host alone: the headless runner has no models of its kind.
"""

WAN, WAN_VAE = "shapeworld_wan.safetensors", "shapeworld_wan_vae.safetensors"
_SCHEDULERS = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal"]


def _node(outputs: tuple[str, ...], **inputs: tuple) -> type:
    return type(
        "HostNode",
        (),
        {
            "INPUT_TYPES": classmethod(lambda cls: {"required": inputs}),
            "RETURN_TYPES": outputs,
        },
    )


HOST_NODES = {
    "UNETLoader": _node(
        ("MODEL",),
        unet_name=([WAN], {}),
        weight_dtype=(["default"], {"default": "default"}),
    ),
    "VAELoader": _node(("VAE",), vae_name=([WAN_VAE], {})),
    "CLIPLoader": _node(
        ("CLIP",),
        clip_name=(["umt5_xxl_fp8_e4m3fn_scaled.safetensors"], {}),
        type=(["wan"], {"default": "wan"}),
        device=(["default"], {"default": "default"}),
    ),
    "CLIPTextEncode": _node(
        ("CONDITIONING",), text=("STRING", {"multiline": True, "default": ""}), clip=("CLIP", {})
    ),
    # SAM 3, of hosts since the summer of 2026.
    "CheckpointLoaderSimple": _node(
        ("MODEL", "CLIP", "VAE"), ckpt_name=(["sam3.1_multiplex_fp16.safetensors"], {})
    ),
    "SAM3_VideoTrack": type(
        "SAM3_VideoTrack",
        (),
        {
            "INPUT_TYPES": classmethod(
                lambda cls: {
                    "required": {"images": ("IMAGE", {}), "model": ("MODEL", {})},
                    "optional": {
                        "initial_mask": ("MASK", {}),
                        "conditioning": ("CONDITIONING", {}),
                        "detection_threshold": ("FLOAT", {"default": 0.5}),
                        "max_objects": ("INT", {"default": 4}),
                        "detect_interval": ("INT", {"default": 1}),
                    },
                }
            ),
            "RETURN_TYPES": ("SAM3_TRACK_DATA",),
            "RETURN_NAMES": ("track_data",),
        },
    ),
    "SAM3_TrackToMask": type(
        "SAM3_TrackToMask",
        (
            _node(
                ("MASK",),
                track_data=("SAM3_TRACK_DATA", {}),
                object_indices=("STRING", {"default": ""}),
            ),
        ),
        {"RETURN_NAMES": ("masks",)},
    ),
    "RandomNoise": _node(("NOISE",), noise_seed=("INT", {"control_after_generate": True})),
    "BasicScheduler": _node(
        ("SIGMAS",),
        model=("MODEL", {}),
        scheduler=(_SCHEDULERS, {}),
        steps=("INT", {"default": 20}),
        denoise=("FLOAT", {"default": 1.0}),
    ),
    "SamplerCustomAdvanced": type(
        "SamplerCustomAdvanced",
        (
            _node(
                ("LATENT", "LATENT"),
                noise=("NOISE", {}),
                guider=("GUIDER", {}),
                sampler=("SAMPLER", {}),
                sigmas=("SIGMAS", {}),
                latent_image=("LATENT", {}),
            ),
        ),
        {"RETURN_NAMES": ("output", "denoised_output")},
    ),
}


def needs_host(prompt: dict) -> bool:
    """Whether a graph in the API format has nodes that only a ComfyUI has."""
    return any(node["class_type"] in HOST_NODES for node in prompt.values())
