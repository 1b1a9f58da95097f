"""MODELs of other packs' loaders as models of ReScore, in a host's process.

usage: python native_packs.py COMFYUI TRANSFORMER VAE FOUND --cpu

The packs lie in the custom_nodes of the host. Each function whose name begins with `check` is run;
FOUND becomes a JSON file that says of each what went wrong, nothing, or "lacks" and what is absent.
"""

import sys
import tempfile
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    arguments = sys.argv[1:5]
    sys.path.insert(0, str(Path(arguments[0]).resolve()))
    del sys.argv[1:5]  # what is left is for the host, which reads the command line on import
    import comfy.options

    comfy.options.enable_args_parsing()

import comfy.utils
import folder_paths
import native_start as checks  # beside this file
import torch
from rescore.nodes.assd import AttentionFusion
from rescore.nodes.similarity import SpatialSelfSimilarity


@cache
def quantised():
    """The tiny Wan in Q8_0, by the loader of ComfyUI-GGUF."""
    try:
        nodes = checks.pack("ComfyUI-GGUF").NODE_CLASS_MAPPINGS
        import gguf
    except ImportError as missing:
        raise checks.LackingError(f"lacks {missing.name}, which the pack needs") from missing

    folder = Path(tempfile.mkdtemp())
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "wan")
    for name, weight in comfy.utils.load_torch_file(arguments[1]).items():
        values = weight.float().numpy()
        kind = gguf.GGMLQuantizationType.F32
        if values.ndim == 2 and values.shape[1] % 32 == 0 and "patch_embedding" not in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quants.quantize(values, kind)
        if values.ndim > 4:  # more than a file can say
            shape = [int(length) for length in values.shape]
            writer.add_array(f"comfy.gguf.orig_shape.{name}", shape)
            values = values.reshape(values.shape[0], -1)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return nodes["UnetLoaderGGUF"]().load_unet("tiny.gguf")[0]


def check_a_gguf_file_edits_as_the_weights_it_was_made_of():
    weight = quantised().model.diffusion_model.blocks[0].self_attn.q.weight
    assert type(weight).__name__ == "GGMLTensor" and weight.dtype != torch.float32
    found, expected = (
        checks.edit(4, patcher)[0]["samples"] - checks.latent()["samples"]
        for patcher in (quantised(), checks.patcher())
    )
    assert not torch.equal(found, expected)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.98, cosine


def check_words_and_fusion_look_into_a_gguf_file():
    (half,) = AttentionFusion().build(3, 0.5)
    plain = checks.edit(2, quantised())[0]["samples"]
    fused = checks.edit(2, quantised(), fusion=half)[0]["samples"]
    assert not torch.allclose(plain, fused, atol=1e-3)


def check_no_gradient_goes_through_a_gguf_file():
    settings = checks.default_inputs(SpatialSelfSimilarity)
    (terms,) = SpatialSelfSimilarity().build(**settings)
    quantised()
    if checks.compares_keys():
        checks.refused("are quantised", checks.edit, 1, quantised(), terms=terms)
    expected = checks.edit(1, quantised())[0]["samples"]
    assert torch.equal(checks.edit(1, quantised())[0]["samples"], expected)


def check_a_lora_on_a_gguf_file_acts_and_leaves_it_as_it_was():
    plain = checks.edit(1, quantised())[0]["samples"]
    name = "diffusion_model.blocks.0.self_attn.q.weight"
    changed = quantised().clone()
    changed.add_patches({name: ("diff", (torch.full((128, 128), 0.2),))})
    assert not torch.allclose(checks.edit(1, changed)[0]["samples"], plain, atol=1e-3)
    assert torch.equal(checks.edit(1, quantised())[0]["samples"], plain)


if __name__ == "__main__":
    checks.arguments = arguments
    checks.run_checks(globals(), arguments[3])
