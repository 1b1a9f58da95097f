"""How well an edit keeps the source's pixels: PSNR and SSIM."""

import math

from jaxtyping import Float
from kornia.metrics import ssim as ssim_map
from torch import Tensor
from torch.nn import functional

from .measure import Measure, check_pair, mean
from .region import Region

WINDOW = 11  # pixels; the Gaussian in it has a standard deviation of 1.5


def psnr(
    source: Float[Tensor, "1 3 f H W"], edited: Float[Tensor, "1 3 f2 H2 W2"], region: Region
) -> Measure:
    """Peak signal-to-noise ratio in dB, -10 log10 of the mean squared error of values in 0..1.

    The error is averaged over the region's pixels in all frames together. `values` are the PSNRs of
    single frames, NaN for a frame without any of the region. Equal pixels have an infinite PSNR.

    Raises:
        ValueError: if the clips cannot be compared.
    """
    check_pair(source, edited)
    where = region.where.to(source.device)
    error = (source - edited).double().square().mean(dim=1)[0]
    frames = [_decibel(e[w].mean().item()) for e, w in zip(error, where, strict=True)]
    value = _decibel(error[where].mean().item())
    return Measure(region.title("PSNR"), value, "dB", "higher", tuple(frames))


def ssim(
    source: Float[Tensor, "1 3 f H W"], edited: Float[Tensor, "1 3 f2 H2 W2"], region: Region
) -> Measure:
    """Structural similarity (Wang et al., 2004, Eq. 13), 1 for equal clips.

    SSIM = (2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2)), with
    means m, variances s^2 and covariance s_xy under a Gaussian window of 11 x 11 pixels, c_1 =
    0.01^2 and c_2 = 0.03^2. It is averaged over the colours and over all windows that lie
    completely inside the region, then over frames.

    Raises:
        ValueError: if the clips cannot be compared, or no window fits.
    """
    check_pair(source, edited)
    height, width = source.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"The clips are {width} x {height} pixels; SSIM looks through windows of {WINDOW} x "
            f"{WINDOW}. Use larger clips, or PSNR."
        )
    frames = []
    for i, where in enumerate(region.where.to(source.device)):
        # The smallest value in a window is 1 if all of the window lies inside the region.
        fits = -functional.max_pool2d(-where.double()[None], WINDOW, stride=1)[0] == 1
        if not bool(fits.any()):
            frames.append(math.nan)
            continue
        pair = (clip[:, :, i].double() for clip in (source, edited))
        similarity = ssim_map(*pair, WINDOW, 1.0, 0.0, "valid").mean(dim=1)[0]
        frames.append(similarity[fits].mean().item())
    value = mean(frames)
    if math.isnan(value):
        raise ValueError(
            f"No window of {WINDOW} x {WINDOW} pixels lies wholly {region.name} the mask, in any "
            "frame. Use a mask with more room there, larger clips, or PSNR."
        )
    return Measure(region.title("SSIM"), value, "", "higher", tuple(frames))


def _decibel(error: float) -> float:
    if math.isnan(error):
        return math.nan
    return -10 * math.log10(error) if error > 0 else math.inf
