"""Null-text nodes as the host runs them: in inference mode, resumed after Cancel, from files."""

from dataclasses import replace

import pytest
import rescore
import rescore.nodes.host as host
import torch
from rescore.pipelines.windows import Windows

STEPS = 3  # of `inverted`


def optimise(run, given, **inputs):
    return run("ReScoreNullTextOptimisation", **given, **{"inner_steps": 2, "cfg": 3.0, **inputs})


def test_embeddings_guidance_and_reconstruction(run, inverted, clip, monkeypatch):
    given, sent = inverted(), []
    monkeypatch.setattr(host, "send", lambda event, data: sent.append(data["values"]))
    mask = torch.zeros(1, 6, 7)
    mask[:, 2:4, 2:4] = 1
    guidance = run("ReScoreDecoupledGuidance", mask=mask, strength=0.1)[0]
    found, latent, losses, report = optimise(run, given, guidance=guidance)
    assert found.finished and len(found.guidance) == STEPS
    assert found.embeddings[0].shape[0] == 2
    assert len(losses["loss"]) == STEPS
    assert "3 of 3 steps" in report and "guidance of strength 0.1" in report
    path = given["trajectory"].trajectory
    reached = [path.psnr(level, loss) for level, loss in zip((2, 1, 0), found.losses, strict=True)]
    assert f"{reached[0]:.2f} dB at the first step" in report
    assert [dB for values in sent for dB in values["PSNR, dB"]] == pytest.approx(reached)
    assert f"{min(reached):.2f} dB at the worst, {reached[-1]:.2f} dB at the last" in report
    again, images, psnr, words = run(
        "ReScoreReconstruct", **given, cfg=3.0, null_text=found, images=clip(2, 12, 14)
    )
    torch.testing.assert_close(again["samples"], latent["samples"], rtol=1e-3, atol=1e-3)
    assert images.shape == (2, 12, 14, 3)
    assert f"{psnr:.2f} dB" in words and "VAE alone" in words
    decoded = run("ReScoreVideoVAEDecode", model=given["model"], latent=again)[0]
    torch.testing.assert_close(decoded, images)


@pytest.mark.parametrize("kind", ["text-to-video", "image"])
def test_other_models_take_one_embedding_for_the_clip(run, inverted, kind):
    given = inverted(kind)
    found = optimise(run, given, embeddings="one for the clip", checkpointing=True)[0]
    assert found.finished and found.embeddings[0].shape[0] == 1
    if kind == "text-to-video":
        with pytest.raises(ValueError, match="takes one text embedding for a whole clip"):
            optimise(run, given)


def test_checkpointing_changes_nothing(run, inverted):
    given = inverted()
    guidance = run("ReScoreDecoupledGuidance", strength=0.1)[0]
    kept, again = (
        optimise(run, given, guidance=guidance, checkpointing=on)[0] for on in (False, True)
    )
    torch.testing.assert_close(kept.z, again.z, rtol=1e-4, atol=1e-4)


def test_two_nodes_do_what_one_does(run, inverted):
    given = inverted()
    whole = optimise(run, given)[0]
    first, _, _, report = optimise(run, given, stop_after=2)
    assert first.done == 2 and "Unfinished" in report
    then = optimise(run, given, null_text=first)[0]
    assert torch.equal(whole.z, then.z) and whole.losses == then.losses
    with pytest.raises(ValueError, match="done 2 of 3 steps"):
        run("ReScoreReconstruct", **given, cfg=3.0, null_text=first)


class Cancelled(Exception):
    pass


@pytest.fixture
def stopped(run, inverted, monkeypatch):
    """`stopped(steps, **inputs)`: a node that was cancelled after so many steps, and its inputs.

    Its `queue(**changes)` runs it again, and gives the outputs and the timesteps the model saw.
    """

    def make(steps=1, **inputs):
        given, calls = inverted(), []
        node = rescore.NODE_CLASS_MAPPINGS["ReScoreNullTextOptimisation"]()
        required = node.INPUT_TYPES()["required"].items()
        inputs = {
            **{name: spec[1]["default"] for name, spec in required if "default" in spec[1]},
            **given, "cfg": 3.0, "inner_steps": 2, **inputs,
        }  # fmt: skip
        denoiser = given["model"].denoiser
        original = denoiser.output

        def counted(z, t, cond):
            calls.append(t)
            return original(z, t, cond)

        monkeypatch.setattr(denoiser, "output", counted)
        with monkeypatch.context() as patched, torch.inference_mode():
            cancels = iter([False] * steps + [True])

            def cancel():
                if next(cancels):
                    raise Cancelled

            patched.setattr(host, "check_cancelled", cancel)
            with pytest.raises(Cancelled):
                node.optimise(**inputs)

        def queue(**changes):
            calls.clear()
            with torch.inference_mode():
                return node.optimise(**{**inputs, **changes}), tuple(calls)

        queue.inputs = inputs
        return queue

    return make


@pytest.mark.parametrize("stop_after", [0, 2])
def test_a_cancelled_run_goes_on_where_it_was(run, stopped, caplog, stop_after):
    queue = stopped(stop_after=stop_after)
    caplog.set_level("INFO", logger="rescore")
    (found, _, _, report), calls = queue()
    assert max(calls) < 999  # the first step is not done again
    assert "Null-Text Optimisation goes on at step 1, where it was stopped" in caplog.text
    assert "The first 1 are of this node's run before" in report
    whole = run("ReScoreNullTextOptimisation", **queue.inputs)
    assert torch.equal(found.z, whole[0].z) and whole[0].losses == found.losses
    assert "run before" not in whole[3]
    assert not any("forward" in vars(m) for m in queue.inputs["model"].unet.modules())
    # That run has come to its end: nothing is left of it.
    assert max(queue()[1]) == 999


def other_negative(run, given):
    words = given["prompts"]
    pair = run(
        "ReScoreEncodePromptPair", model=given["model"], source_prompt=words.source,
        target_prompt=words.target, negative_prompt="blurred",
    )[0]  # fmt: skip
    return {"prompts": pair}


def other_windows(run, given):
    return {"trajectory": replace(given["trajectory"], windows=Windows(2, 0))}


def other_size(run, given):
    return {"trajectory": replace(given["trajectory"], pixel_size=(11, 14))}


def other_guidance(**changes):
    return lambda run, given: {"guidance": run("ReScoreDecoupledGuidance", **changes)[0]}


def no_guidance(run, given):
    return {"guidance": None}


def other_trajectory(run, given):
    path = given["trajectory"].trajectory
    return {
        "trajectory": replace(
            given["trajectory"], trajectory=replace(path, latents=path.latents * 1.01)
        )
    }


MASK = torch.ones(1, 6, 7)


@pytest.mark.parametrize(
    "change",
    [
        other_negative,
        other_windows,
        other_size,
        other_trajectory,
        no_guidance,
        other_guidance(strength=0.1),
        other_guidance(strength=0.2, top_k=2, mask=MASK),
        other_guidance(strength=0.2, mask=torch.zeros(1, 6, 7)),
        lambda run, given: {"cfg": 4.0},
        lambda run, given: {"inner_steps": 1},
        lambda run, given: {"learning_rate": 0.02},
        lambda run, given: {"embeddings": "one for the clip"},
        lambda run, given: {"early_stop": 0.1},
        lambda run, given: {"early_stop_growth": 0.1},
    ],
)
def test_another_run_does_not_go_on_where_a_cancelled_one_was(run, stopped, change):
    guidance = run("ReScoreDecoupledGuidance", strength=0.2, mask=MASK)[0]
    queue = stopped(guidance=guidance)
    changed = change(run, queue.inputs)
    (found, _, _, report), calls = queue(**changed)
    assert max(calls) == 999 and "run before" not in report
    fresh = run("ReScoreNullTextOptimisation", **{**queue.inputs, **changed})[0]
    assert torch.equal(found.z, fresh.z)


def test_what_does_not_shape_a_run_leaves_what_was_done(run, stopped, texts):
    """Less memory needed, the same guidance and prompts made anew, and another place to end."""
    queue = stopped(guidance=run("ReScoreDecoupledGuidance", strength=0.2, mask=MASK)[0])
    same = {
        "guidance": run("ReScoreDecoupledGuidance", strength=0.2, mask=MASK.clone())[0],
        "prompts": run("ReScoreEncodePromptPair", model=queue.inputs["model"], **texts)[0],
        "checkpointing": True,
        "stop_after": 2,
    }
    (found, _, _, report), calls = queue(**same)
    assert max(calls) < 999 and found.done == 2 and "The first 1 are" in report


def test_a_run_from_a_wired_state_goes_on_too(run, inverted, stopped):
    queue = stopped(steps=2)
    first = run("ReScoreNullTextOptimisation", **{**queue.inputs, "stop_after": 1})[0]
    # It was cancelled after two steps of its own; from the state on it is another run.
    (found, _, _, report), calls = queue(null_text=first)
    assert len({t for t in calls}) == 2 and "run before" not in report
    assert torch.equal(found.z, run("ReScoreNullTextOptimisation", **queue.inputs)[0].z)


@pytest.mark.parametrize("change", [other_negative, other_windows, other_guidance(strength=0.1)])
def test_a_wired_state_that_was_made_with_others_is_refused(run, inverted, change):
    given = inverted()
    first = optimise(run, given, stop_after=1)[0]
    with pytest.raises(ValueError, match="made with another negative prompt"):
        optimise(run, {**given, **change(run, given)}, null_text=first)


def test_saved_and_loaded(run, inverted, tmp_path):
    given = inverted()
    guidance = run("ReScoreDecoupledGuidance", strength=0.1)[0]
    with host.writing_to(tmp_path):
        for name, inputs in {"with": {"guidance": guidance}, "half": {"stop_after": 1}}.items():
            found = optimise(run, given, **inputs)[0]
            assert run("ReScoreSaveNullText", null_text=found, name=name)[0] is found
            loaded = run("ReScoreLoadNullText", file=f"{name}.safetensors")[0]
            for part in ("trajectory", "cfg", "steps", "strength", "losses"):
                assert getattr(loaded, part) == getattr(found, part)
            assert torch.equal(loaded.z, found.z)
            assert all(map(torch.equal, loaded.embeddings, found.embeddings))
            assert all(map(torch.equal, loaded.guidance, found.guidance))
        written = [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.*")]
        assert sorted(written) == [
            "rescore_null_text/half.safetensors",
            "rescore_null_text/with.safetensors",
        ]
        resumed = optimise(run, given, null_text=loaded)[0]
        assert torch.equal(resumed.z, optimise(run, given)[0].z)


@pytest.mark.parametrize("name", ["", "../clip", "a/b", ".hidden", "c:d", "a\\b"])
def test_names_that_leave_the_folder_are_refused(run, inverted, tmp_path, name):
    found = optimise(run, inverted("image"), stop_after=1, inner_steps=0)[0]
    with host.writing_to(tmp_path), pytest.raises(ValueError, match="is no name for a file"):
        run("ReScoreSaveNullText", null_text=found, name=name)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_something_else(run, tmp_path):
    folder = tmp_path / "rescore_null_text"
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(b"nothing")
    with host.writing_to(tmp_path):
        with pytest.raises(ValueError, match="is damaged"):
            run("ReScoreLoadNullText", file="broken.safetensors")
        with pytest.raises(ValueError, match="There is no file absent"):
            run("ReScoreLoadNullText", file="absent.safetensors")


def test_what_does_not_belong_together_is_refused(run, load, inverted, clip):
    given = inverted()
    found = optimise(run, given, stop_after=3, inner_steps=0)[0]
    other = inverted(source_prompt="a green square")
    with pytest.raises(ValueError, match="inverted with the prompt"):
        optimise(run, {**given, "prompts": other["prompts"]})
    with pytest.raises(ValueError, match="made with another model"):
        optimise(run, {**given, "model": load("image")})
    with pytest.raises(ValueError, match="optimised for another trajectory"):
        run("ReScoreReconstruct", **other, cfg=3.0, null_text=found)
    with pytest.raises(ValueError, match="optimised for cfg 3, and this is 8"):
        run("ReScoreReconstruct", **given, cfg=8.0, null_text=found)
    with pytest.raises(ValueError, match="Wire the clip that was encoded"):
        run("ReScoreReconstruct", **given, cfg=1.0, images=clip(3, 12, 14))
