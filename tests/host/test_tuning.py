"""One-shot tuning in a real ComfyUI: outside its inference mode, and never lost to Cancel."""

import pytest

pytestmark = pytest.mark.host

CLIP = "red_circle.mp4"


def tuning(steps: int) -> dict:
    """Inflate, tune, save: on four small frames of the shipped clip."""
    link = {"model": ["1", 0], "prompts": ["6", 0], "latent": ["7", 0]}
    nodes = {
        "1": ("ReScoreLoadShapeWorldModel", {"model": "shapeworld-sd"}),
        "2": ("LoadVideo", {"file": CLIP}),
        "3": ("GetVideoComponents", {"video": ["2", 0]}),
        "4": ("ImageFromBatch", {"image": ["3", 0], "batch_index": 0, "length": 4}),
        "5": (
            "ReScoreInflateImageModel",
            {"model": ["1", 0], "variant": "ei2", "ratio": 2, "seed": 0},
        ),
        "6": (
            "ReScoreEncodePromptPair",
            {
                "model": ["1", 0],
                "source_prompt": "a red circle",
                "target_prompt": "a blue circle",
                "negative_prompt": "",
            },
        ),
        "7": (
            "ReScoreVideoVAEEncode",
            {
                "model": ["1", 0],
                "images": ["4", 0],
                "frames_per_chunk": 8,
                "posterior": "mean",
                "seed": 0,
            },
        ),
        "8": (
            "ReScoreOneShotTune",
            link
            | {
                "model": ["5", 0],
                "steps": steps,
                "learning_rate": 3e-4,
                "seed": 1,
                "precision": "as loaded",
                "checkpointing": True,
                "preview_every": 0,
                "preview_steps": 2,
                "preview_cfg": 7.5,
            },
        ),
        "9": ("ReScoreSaveTunedWeights", {"model": ["8", 0], "name": "in the host"}),
        "10": ("PreviewImage", {"images": ["8", 3]}),
        "11": ("PreviewAny", {"source": ["8", 5]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def report(run) -> str:
    return run.outputs["11"]["text"][0]


def test_tuning_runs_in_the_host_and_its_weights_are_offered(comfyui):
    run = comfyui.run(tuning(3))
    assert "3 steps are made, 3 of them now" in report(run)
    assert ("8", 3, 3) in run.progress
    assert (comfyui.output / "rescore_tuned" / "in the host.safetensors").is_file()
    info = comfyui.get("/object_info/ReScoreLoadTunedWeights")["ReScoreLoadTunedWeights"]
    assert "in the host.safetensors" in info["input"]["required"]["file"][0]
    load = tuning(3) | {
        "12": {
            "class_type": "ReScoreLoadTunedWeights",
            "inputs": {"model": ["1", 0], "file": "in the host.safetensors"},
        },
        "13": {"class_type": "PreviewAny", "inputs": {"source": ["12", 1]}},
    }
    assert "for 3 steps" in comfyui.run(load).outputs["13"]["text"][0]


def test_after_cancel_the_same_run_goes_on_where_it_stopped(comfyui):
    comfyui.run_cancelled(tuning(5000), "8", 2)
    done = report(comfyui.run(tuning(40)))
    assert "40 steps are made" in done
    assert "40 of them now" not in done
