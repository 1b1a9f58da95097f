"""The shells, run the way the host runs them: inside inference mode, on models from its folders."""

import pytest
import torch
from tiny_models import write_tiny_adapter, write_tiny_sd, write_tiny_t2v
from tiny_wan import write_tiny_wan


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """A models folder as users have it, with tiny random models in it."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_t2v(folder / "diffusers" / "t2v", seed=1)
    write_tiny_sd(folder / "diffusers" / "sd", seed=2)
    write_tiny_wan(folder / "diffusers" / "wan", seed=4)
    write_tiny_adapter(folder / "animatediff_models" / "motion", seed=3)
    return folder


@pytest.fixture
def run(model_folders, monkeypatch):
    """`run(node_id, **inputs)`: what a node returns, as the host would run it."""
    import rescore

    monkeypatch.setenv("RESCORE_MODELS", str(model_folders))

    def call(node_id: str, **inputs):
        node = rescore.NODE_CLASS_MAPPINGS[node_id]
        sections = node.INPUT_TYPES()
        declared = {**sections["required"], **sections.get("optional", {})}
        for name, (_, *options) in sections["required"].items():
            if name not in inputs and "default" in options[0]:
                inputs[name] = options[0]["default"]
        assert inputs.keys() <= declared.keys(), f"{node_id} has no such input"
        with torch.inference_mode():
            result = getattr(node(), node.FUNCTION)(**inputs)
        values = result["result"] if isinstance(result, dict) else result
        assert len(values) == len(node.RETURN_TYPES)
        return values

    return call


@pytest.fixture
def load(run):
    """`load(kind)`: a model from its loader node."""

    def make(kind: str):
        if kind == "text-to-video":
            return run("ReScoreLoadVideoModel", folder="t2v")[0]
        if kind == "wan":
            return run("ReScoreLoadVideoModel", folder="wan")[0]
        image = run("ReScoreLoadImageModel", model="sd")[0]
        if kind == "image":
            return image
        return run("ReScoreLoadAnimateDiffModel", image_model=image, motion_module="motion")[0]

    return make


@pytest.fixture
def texts():
    """A source and a target prompt."""
    return {
        "source_prompt": "a red circle moving right on a plain background",
        "target_prompt": "a blue circle moving right on a plain background",
    }


@pytest.fixture
def given(run, load, clip, texts):
    """`given(kind, images, **prompts)`: a model, its prompts and the latents of a clip."""

    def make(kind: str, images=None, **prompts):
        model = load(kind)
        pair = run("ReScoreEncodePromptPair", model=model, **texts | prompts)[0]
        images = clip() if images is None else images
        latent = run("ReScoreVideoVAEEncode", model=model, images=images)[0]
        return {"model": model, "prompts": pair, "latent": latent}

    return make


@pytest.fixture
def inverted(run, given, clip):
    """`inverted(kind, **prompts)`: a model, its prompts and the trajectory of a clip."""

    def make(kind: str = "animatediff", steps: int = 3, **prompts):
        inputs = given(kind, clip(2, 12, 14), **prompts)
        path = run("ReScoreDDIMInversion", **inputs, steps=steps)[0]
        return {"model": inputs["model"], "prompts": inputs["prompts"], "trajectory": path}

    return make


@pytest.fixture
def clip():
    """`clip(frames, height, width)`: an IMAGE of random pixels, made in inference mode."""

    def make(frames=3, height=21, width=18, channels=3):
        with torch.inference_mode():
            generator = torch.Generator().manual_seed(0)
            return torch.rand(frames, height, width, channels, generator=generator)

    return make
