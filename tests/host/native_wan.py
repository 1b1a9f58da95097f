"""What a ComfyUI's own loaders and its own Wan make of the files of the tiny Wan.

usage: python native_wan.py COMFYUI TRANSFORMER VAE TENSORS ANSWERS --cpu

TENSORS holds a latent, its times, a text and a clip; ANSWERS is written.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    comfyui, transformer, vae, tensors, answers = sys.argv[1:6]
    sys.path.insert(0, str(Path(comfyui).resolve()))
    del sys.argv[1:6]  # what is left is for the host, which reads the command line on import

    import comfy.options

    comfy.options.enable_args_parsing()

    import comfy.model_management
    import comfy.sd
    import comfy.utils
    import torch
    from safetensors.torch import load_file, save_file

    given = load_file(tensors)
    with torch.inference_mode():
        patcher = comfy.sd.load_diffusion_model(transformer, model_options={"dtype": torch.float32})
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        wan = patcher.model.diffusion_model
        found = {
            "velocity": wan(given["z"], given["t"], context=given["text"]),
            "mean": patcher.model.latent_format.latents_mean.flatten(),
            "deviation": patcher.model.latent_format.latents_std.flatten(),
            "kind": torch.tensor([ord(c) for c in type(patcher.model).__name__]),
        }
        weights, metadata = comfy.utils.load_torch_file(vae, return_metadata=True)
        autoencoder = comfy.sd.VAE(sd=weights, metadata=metadata, dtype=torch.float32)
        clip = given["clip"]  # [f, h, w, 3] in 0..1, as the host's nodes pass pictures
        found["latents"] = autoencoder.encode(clip)
        found["decoded"] = autoencoder.decode(given["latents"])
    save_file({name: value.float().contiguous() for name, value in found.items()}, answers)
