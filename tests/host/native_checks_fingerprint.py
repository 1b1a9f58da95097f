"""By what models and prompts are told apart: all that nodes set on them, and nothing else."""

from functools import partial
from types import SimpleNamespace

import comfy.patcher_extension
import torch
from comfy_extras import nodes_context_windows
from native_start import edit, image_model, lora_of, patcher, taken, texts


def check_an_added_model_is_part_of_the_fingerprint():
    """As AnimateDiff-Evolved adds a motion module; the last weight alone may differ."""

    def moving(motion):
        changed = patcher().clone()
        changed.set_additional_models("motion", [motion])
        return changed

    motion = image_model().clone()
    prints = [taken(moving(motion))[0].fingerprint]
    assert taken(moving(motion.clone()))[0].fingerprint == prints[0]
    *_, last = motion.model.parameters()
    before = last.clone()
    last += 0.5
    prints.append(taken(moving(motion))[0].fingerprint)
    last.copy_(before)
    patched = motion.clone()
    patched.add_patches({"diffusion_model.out.2.bias": ("diff", (torch.ones(4),))})
    prints.append(taken(moving(patched))[0].fingerprint)
    assert len({taken()[0].fingerprint, *prints}) == 4, prints


def windowed(**changed):
    """The model with the host's own context windows."""
    options = {
        "context_length": 9, "context_overlap": 4, "context_schedule": "standard_static",
        "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "freenoise": False,
    }  # fmt: skip
    node = nodes_context_windows.WanContextWindowsManualNode
    return node.execute(patcher(), **(options | changed))[0]


def with_function(number: float, where: str):
    """The model with one function of a node's, which holds a number."""
    changed = patcher().clone()

    def function(*args, **named):
        return number

    class Held:
        def __init__(self):
            self.number = number

        def __call__(self, *args, **named):
            return self.number

    options = changed.model_options["transformer_options"]
    if where == "wrapper of the network":
        changed.set_model_unet_function_wrapper(function)
    elif where == "wrapper of a run":
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        changed.add_wrapper_with_key(kind, "named", function)
    elif where == "attention override":
        options["optimized_attention_override"] = partial(function, number=number)
    elif where == "attention patch":
        changed.set_model_attn1_patch(Held())
    elif where == "replaced block":
        changed.set_model_patch_replace(Held().__call__, "dit", "double_block", 1)
    elif where == "rope":
        options["rope_options"] = {"scale_t": number}
    elif where == "object":
        changed.add_object_patch("diffusion_model.note", torch.tensor([number]))
    elif where == "injection":
        changed.set_injections(
            "named", [comfy.patcher_extension.PatcherInjection(function, lambda patcher: None)]
        )
    elif where == "callback":
        kind = comfy.patcher_extension.CallbacksMP.ON_PRE_RUN
        changed.add_callback(kind, function)
    elif where == "attachment":
        changed.set_attachments("named", Held())
    return changed


WHERE = (
    "wrapper of the network", "wrapper of a run", "attention override", "attention patch",
    "replaced block", "rope", "object", "injection", "callback", "attachment",
)  # fmt: skip


def check_all_that_nodes_set_on_a_model_is_part_of_the_fingerprint():
    """Equal settings made anew are equal; others, and none, are not."""
    makers = {
        "context length": (lambda number: windowed(context_length=number), 9, 13),
        "context overlap": (lambda number: windowed(context_overlap=number), 0, 4),
        "fuse method": (lambda name: windowed(fuse_method=name), "pyramid", "overlap-linear"),
        "free noise": (lambda told: windowed(freenoise=told), False, True),
        "LoRA": (lora_of, 0.2, 0.3),
        **{where: (partial(with_function, where=where), 1.0, 2.0) for where in WHERE},
    }
    plain = taken()[0].fingerprint
    for name, (maker, first, second) in makers.items():
        prints = [taken(maker(value))[0].fingerprint for value in (first, first, second)]
        assert prints[0] == prints[1], f"{name} made anew is another model"
        assert len({plain, *prints}) == 3, f"{name} is not told apart"
        assert taken(maker(first).clone())[0].fingerprint == prints[0], name


def check_a_run_leaves_the_fingerprint_as_it_was():
    for model in (lora_of(0.2), windowed(), with_function(1.0, "attachment")):
        before = taken(model)[0].fingerprint
        edit(1, model)
        assert taken(model)[0].fingerprint == before


def check_one_number_of_any_weight_is_part_of_the_fingerprint():
    prints = {taken()[0].fingerprint}
    weights = list(patcher().model.parameters())
    for weight in (weights[0], weights[len(weights) // 2], weights[-1]):
        before = weight.clone()
        weight.flatten()[0] += 0.5
        prints.add(taken()[0].fingerprint)
        weight.copy_(before)
    assert len(prints) == 4 and taken()[0].fingerprint in prints, prints


def check_guidance_that_is_left_out_is_no_part_of_the_fingerprint():
    other = patcher().clone()
    other.set_model_sampler_cfg_function(lambda args: args["cond"] * 17, True)
    assert taken(other)[0].fingerprint == taken()[0].fingerprint


def check_what_prompts_hold_is_told_apart():
    """By what it says, and not by where it lies in memory; in any order."""
    ((embedding, _),) = texts()["target"]

    def name_of(**named) -> str:
        return taken(target=[[embedding, named]])[1].target

    def controlled(strength: float) -> str:
        return name_of(control=SimpleNamespace(strength=strength))

    assert len({name_of(), controlled(0.5), controlled(0.75)}) == 3
    assert controlled(0.5) == controlled(0.5)
    area = (8, 8, 0, 0)
    assert name_of(area=area, strength=0.5) == name_of(strength=0.5, area=area) != name_of()
