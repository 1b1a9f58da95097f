"""What it costs to compute with a network that the device has no room for.

python benchmarks/short_memory.py models/diffusers/zeroscope_v2_576w

One call of the network: whole, with its weights in fp8, with its layers moved one by one, and both.
Seconds, and the most memory on the card. Needs a card that takes the whole network.
"""

import argparse
import time
from pathlib import Path

import torch
from measuring import markdown
from rescore.pipelines.models.layout import kind_of
from rescore.pipelines.models.storage import keep_apart, store_in_fp8
from rescore.pipelines.models.unet.load import load_text_to_video
from rescore.pipelines.models.wan.load import load_wan

ROWS = {
    "whole": (False, False),
    "fp8": (True, False),
    "layer by layer": (False, True),
    "fp8, layer by layer": (True, True),
}


@torch.inference_mode()
def measured(folder: Path, in_fp8: bool, apart: bool, size: tuple[int, ...]) -> tuple[float, float]:
    """Seconds of a call after a first one, and GiB at most, on the card."""
    load = load_wan if kind_of(folder) == "wan" else load_text_to_video
    model = load(folder, dtype=torch.bfloat16)
    network = model.modules()["network"]
    if in_fp8:
        store_in_fp8(network)
    text = model.encode_prompt("a bus in a street").embedding.to("cuda")
    if apart:
        keep_apart(network, "cuda")
    else:
        network.to("cuda")
    z = torch.randn(1, model.denoiser.space.channels, *size, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    seconds = 0.0
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.denoiser.output(z, 500.0, text)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--size", type=int, nargs=3, default=(16, 40, 72), help="latent frames, height and width"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this measures a card, and torch finds none here")
    rows = []
    for title, (in_fp8, apart) in ROWS.items():
        seconds, peak = measured(options.model, in_fp8, apart, tuple(options.size))
        rows.append((title, f"{seconds:.2f}", f"{peak:.2f}"))
    print(torch.cuda.get_device_name())
    print("\n".join(markdown(("network", "a call, s", "most memory, GiB"), rows)))


if __name__ == "__main__":
    main()
