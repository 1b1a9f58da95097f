"""Long tables go on where they were stopped, and what fills them computes what it says."""

import json
import os
from dataclasses import asdict, astuple, replace
from functools import partial

import pytest
import torch
from gaussian_world import gaussian_model, prompt
from rescore.attention.layers import Layer, Site, attend
from rescore.pipelines.models.denoiser import Prompts
from rescore.pipelines.models.process import VariancePreserving
from rescore.shapeworld.edits import suite
from torch import Tensor

pytestmark = pytest.mark.usefixtures("benchmarks_on_the_path")

PROCESS = VariancePreserving(torch.linspace(0.999, 0.01, 101, dtype=torch.float64))


def test_what_is_there_is_not_computed_again(tmp_path):
    from kept import Kept

    file, tasks = tmp_path / "figures.json", [(row, clip) for clip in (0, 1) for row in ("a", "b")]
    kept = Kept(file, {"steps": (2, 3)})
    assert kept.missing(tasks) == tasks
    kept.add("b", 0, {"hit": 1.0})
    kept.add("a", 0, {"hit": 0.5})
    again = Kept(file, {"steps": (2, 3)})
    assert again.missing(tasks) == [("a", 1), ("b", 1)]
    assert again.figures["a"]["0"] == {"hit": 0.5}
    again.add("b", 1, {"hit": 0.0})
    assert again.shared(["a", "b"]) == ["0"]  # only what can be compared clip by clip
    assert again.shared(["b"]) == ["0", "1"]
    assert list(tmp_path.iterdir()) == [file]  # nothing half-written


def test_figures_of_other_settings_are_not_mixed_in(tmp_path):
    from kept import Kept

    Kept(tmp_path / "figures.json", {"cfg": 5}).add("a", 0, {})
    with pytest.raises(ValueError, match=r"holds figures of .*5.* and .*9.* were asked for"):
        Kept(tmp_path / "figures.json", {"cfg": 9})


def test_a_model_that_remembers_its_source_says_the_same():
    from remembering import remembering

    calls = []

    def output(z: Tensor, t: float, text: Tensor) -> Tensor:
        calls.append(len(z))
        return z * t + text.mean((1, 2))[:, None, None, None, None]

    plain = replace(gaussian_model(PROCESS), output=output)
    watched = remembering(plain)
    generator = torch.Generator().manual_seed(3)
    source, first, second = torch.randn(3, 2, 4, 3, 5, 7, generator=generator)
    text = torch.randn(4, 11, 13, generator=generator)
    for target in (first, second):
        for t in (17.0, 23.0):
            z = torch.cat([source, target])
            assert torch.equal(watched.output(z, t, text), output(z, t, text))
    assert calls[::2] == [4, 4, 2, 2]  # every other call is this test's own


def test_tokens_that_have_moved_are_followed():
    """Of a source that is shifted a token a frame, every frame takes what the key frame reads."""
    from peers.token_propagation import key_frames, propagated

    assert key_frames(8, 4) == [0, 4, 7]
    assert key_frames(1, 4) == [0]
    tokens, frames = 7, 5
    feature = torch.linalg.qr(torch.randn(tokens, 11, generator=torch.Generator().manual_seed(5)).T)
    feature = feature.Q.T  # of length 1 and apart from each other
    source = torch.stack([feature.roll(f, dims=0) for f in range(frames)])[:, None]
    read = torch.arange(float(tokens))[:, None].expand(-1, 3)
    at_keys = torch.stack([read.roll(f, dims=0) for f in (0, 4)])[:, None]
    found = propagated(at_keys, source, [0, 4])
    expected = torch.stack([read.roll(f, dims=0) for f in range(frames)])[:, None]
    assert torch.equal(found, expected)


def test_between_two_key_frames_the_nearer_one_counts_more():
    from peers.token_propagation import propagated

    source = torch.eye(3)[None, None].expand(5, 1, 3, 3)
    at_keys = torch.stack([torch.zeros(1, 3, 2), torch.ones(1, 3, 2)])
    shares = propagated(at_keys, source, [0, 4])[:, 0, 0, 0]
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_key_frames_alone_that_read_each_other_are_extended_attention():
    from peers.token_propagation import TokenPropagation

    generator = torch.Generator().manual_seed(7)
    q, k, v = torch.randn(3, 4, 2, 5, 3, generator=generator)  # two clips of two frames
    change = TokenPropagation(inject=False, spacing=1)._change({1: 0})
    found = change(Layer(Site("up", "spatial"), (0, 1)), q, k, v, attend)
    assert torch.equal(found[:2], attend(q[:2], k[:2], v[:2]))
    for frame in (2, 3):
        keys, values = (torch.cat(list(part[2:]), dim=1)[None] for part in (k, v))
        expected = attend(q[[frame]], keys, values)
        torch.testing.assert_close(found[[frame]], expected)


def test_noise_and_denoise_walks_the_share_of_the_levels_it_is_asked_for():
    """From the clip, noised to the level there, down to the end: one call of two rows a level."""
    from peers.plain import noise_and_denoise

    seen = []
    model = gaussian_model(PROCESS)

    def output(z: Tensor, t: float, text: Tensor) -> Tensor:
        seen.append((t, z))
        return model.output(z, t, text)

    z_0 = torch.randn(1, 4, 3, 5, 7, generator=torch.Generator().manual_seed(11))
    settings = {"strength": 0.6, "steps": 5, "cfg": 3.0, "seed": 13}
    prompts = Prompts(prompt(0.0), prompt(1.0), prompt(-1.0))
    noise_and_denoise(z_0, replace(model, output=output), prompts, **settings)
    levels = PROCESS.grid(5)
    assert [t for t, _ in seen] == [level.t for level in levels[3:0:-1]]
    noise = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(13))
    start = levels[3].signal * z_0 + levels[3].noise * noise
    torch.testing.assert_close(seen[0][1], start.expand(2, -1, -1, -1, -1))


def test_processes_have_one_thread_and_keep_freed_memory():
    from kept import processes

    with processes(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert pool.submit(os.getenv, "MALLOC_TRIM_THRESHOLD_").result() == "4000000000"


def test_a_table_by_clips_goes_on_where_it_was_stopped(tmp_path):
    from measuring import over_clips

    first, second = edits = suite("colour", 2, frames=3)
    table = partial(over_clips, asdict, jobs=1, keep=tmp_path)
    assert next(table(edits)) == (first, asdict(first))  # and stopped
    (file,) = tmp_path.rglob("*.pt")
    torch.save("what is there", file)
    assert list(table(edits)) == [(first, "what is there"), (second, asdict(second))]
    assert list(table(edits[::-1])) == [(second, asdict(second)), (first, "what is there")]
    assert next(over_clips(astuple, edits, jobs=1, keep=tmp_path)) == (first, astuple(first))
    assert not list(tmp_path.rglob("*.part"))  # nothing half-written


def test_two_commands_at_once_do_not_mix_up_clips(tmp_path):
    from measuring import over_clips

    edits = suite("colour", 3, frames=3)
    results = over_clips(asdict, edits, jobs=1, keep=tmp_path)
    next(results)
    (file,) = tmp_path.rglob("*.pt")
    other = over_clips(asdict, edits[1:2], jobs=1, keep=tmp_path)
    assert list(other) == [(edits[1], asdict(edits[1]))]
    assert list(results) == [(edit, asdict(edit)) for edit in edits[1:]]
    assert len(list(file.parent.iterdir())) == 3


def test_figures_are_at_once_what_the_file_gives_back(tmp_path):
    """A command that has just computed them reads them as one that finds them there."""
    from kept import Kept

    kept = Kept(tmp_path / "figures.json", {})
    kept.add("row", 3, {30: {"hit": True}, "pair": (0.5, 2)})
    assert kept.figures == Kept(tmp_path / "figures.json", {}).figures
    assert kept.figures["row"]["3"]["30"] == {"hit": True}


def test_what_a_methods_own_report_holds_is_taken_from_there(tmp_path):
    import against_peers
    from kept import Kept

    scores = dict.fromkeys(against_peers.COLUMNS, 0.5)
    for folder, _, run in against_peers.ELSEWHERE.values():
        rows = {
            name: [scores, scores] for f, name, _ in against_peers.ELSEWHERE.values() if f == folder
        }
        settings = asdict(run) | ({"steps": 7} if folder == "ei2_report" else {})
        (tmp_path / folder).mkdir(exist_ok=True)
        text = json.dumps({"settings": settings, "edits": rows})
        (tmp_path / folder / "figures.json").write_text(text, "utf-8")
    kept = Kept(tmp_path / "figures.json", {})
    kept.add("DDS", 1, scores | {"hit": 1.0})
    against_peers.take_over(kept, tmp_path)
    assert kept.missing([("DDS", 0), ("VideoDirector", 1), ("EI2", 0)]) == [("EI2", 0)]  # 7 steps
    assert kept.figures["DDS"]["1"]["hit"] == 1.0  # what is measured here stays
