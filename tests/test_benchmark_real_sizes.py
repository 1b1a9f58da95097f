"""The memory that `benchmarks/real_sizes.py` tells, on the shape world's models."""

import re
import sys
from types import ModuleType

import pytest
import torch
from rescore.benchmarks.memory import peak_memory
from torch.nn import functional


@pytest.fixture(scope="module")
def command(root) -> ModuleType:
    """The command; like every script, it finds its neighbours on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        import real_sizes

        yield real_sizes
        names = ("real_sizes", "real_sizes_rows", "real_sizes_run", "without_numbers", "measuring")
        for name in (*names, "memory"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def peak(command):
    """The bytes a row takes on top of its weights, computed once for each device."""
    known = {}

    def of(row: str, device: str = "meta") -> int:
        if (row, device) not in known:
            case = command.ROWS[row](command.Lab(command.TINY, device, tiny=True))
            known[row, device] = command.cost(case, device).peak
        return known[row, device]

    return of


@pytest.mark.parametrize(
    "row",
    [
        "DDS, short clip",
        "DreamMotion, short clip",
        "null-text, per frame, checkpointing",
        "attention-controlled sampling",
        "EI2, checkpointing",
    ],
)
def test_tensors_without_numbers_take_what_tensors_with_numbers_take(peak, row):
    """Beside what the loops keep on the CPU, which is no card's and small here."""
    assert peak(row) == pytest.approx(peak(row, "cpu"), rel=0.05)


@pytest.mark.parametrize("row", ["null-text, per frame", "null-text, shared", "EI2"])
def test_checkpointing_takes_less(peak, row):
    assert peak(f"{row}, checkpointing") < 0.8 * peak(row)


def test_a_long_clip_takes_what_one_window_takes(peak):
    assert peak("DDS") < peak("DDS, long clip in windows") < 1.2 * peak("DDS")


def test_a_longer_clip_takes_more(peak):
    assert peak("DDS") == pytest.approx(2 * peak("DDS, short clip"), rel=0.1)


def test_a_graph_takes_more_than_none(peak):
    assert peak("DreamMotion") > 1.2 * peak("DDS")
    assert peak("flow-enhanced, with consistency") > peak("flow-enhanced: smoothing, preservation")


def test_clips_one_by_one_take_less(command):
    both = command.costs("DDS, short clip", command.Lab(command.TINY, tiny=True))
    assert both.one_by_one.peak < 0.5 * both.at_once.peak


def test_fused_attention_keeps_no_maps(command):
    """Output and logarithms alone, where the plain formula would make maps of 64 MiB."""
    q = torch.empty(1, 4, 2048, 8, device="meta")

    def work() -> None:
        functional.scaled_dot_product_attention(q, q, q)

    with command.on_meta():
        assert peak_memory(work) == 4 * q.numel() + 4 * 4 * 2048
    assert peak_memory(work) > 2**26


def test_what_lies_on_the_cpu_is_not_the_cards(command):
    z = torch.empty(1000, device="meta")

    def work() -> None:
        with command.on_meta():
            kept = z.cpu() + torch.randn(1000)
            assert kept.to(z.device).is_meta

    assert peak_memory(work) == 4000


def test_weights_that_models_share_count_once(command):
    one, other = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    other.weight = one.weight
    assert command.bytes_of([one, other]) == 4 * (3 * 5 + 2 * 5)


def test_a_small_model_may_have_random_weights(command):
    trained = command.Lab(command.TINY, "cpu", tiny=True).model("text-to-video")
    random = command.Lab(command.TINY, "cpu", tiny=True, random=True).model("text-to-video")
    shapes = [
        {name: weight.shape for name, weight in model.unet.state_dict().items()}
        for model in (trained, random)
    ]
    assert shapes[0] == shapes[1]
    assert random.unet.conv_in.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not random.unet.conv_in.weight.equal(trained.unet.conv_in.weight)


@pytest.mark.parametrize("gibibytes, card", [(7.0, 8), (7.1, 12), (79.5, None)])
def test_the_smallest_card_that_leaves_a_gibibyte_free(command, gibibytes, card):
    assert command.Cost(2**30, int((gibibytes - 1) * 2**30)).card == card


def test_the_table(command, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "REPORT", tmp_path)
    arguments = ["real_sizes.py", "--tiny", "--frames", "4", "--rows", "DDS", "VAE decode"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--report"])
    command.main()
    page = (tmp_path / "README.md").read_text("utf-8")
    assert re.search(r"^\| DDS \|( 0\.\d \|){3} 8 GB \| 0\.\d, 8 GB \|$", page, re.MULTILINE)
    assert re.search(r"^\| VAE decode \|( 0\.\d \|){3} 8 GB \|  \|$", page, re.MULTILINE)
    assert "16 frames" not in page and "4 frames" in page
    printed = capsys.readouterr().out
    assert page.endswith(printed[printed.index("## ZeroScope") :].rstrip() + "\n")
