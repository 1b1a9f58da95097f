"""How whole files end, in containers that do not say their length."""

from __future__ import annotations

from pathlib import Path

TAIL = 1 << 17  # bytes, more than a page of Ogg has
ENDS = {"gif": b";", "mjpeg": b"\xff\xd9"}
TS_PACKETS = (188, 192, 204)
OGG_PAGE, OGG_HEADER, OGG_LAST = b"OggS", 27, 4
NUT_INDEX = bytes.fromhex("4e58dd672f23e64e")
Y4M_FRAME = b"FRAME\n"


def ends_early(path: Path, form: str, packet: int) -> bool:
    """Whether a file lacks what whole ones of its kind end with.

    Args:
        form: FFmpeg's name of the container; False for those that are not known here.
        packet: bytes of a frame, where all have as many.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(TAIL)
        file.seek(max(0, size - TAIL))
        tail = file.read()
        if form == "nut":  # its last 12 bytes are how long the index is, and a checksum
            file.seek(max(0, size - int.from_bytes(tail[-12:-4], "big")))
            return file.read(len(NUT_INDEX)) != NUT_INDEX
    if form in ENDS:
        return not tail.rstrip(b"\0").endswith(ENDS[form])
    if form == "mpegts":
        return all(size % length for length in TS_PACKETS)
    if form == "ogg":
        return not _ends_with_last_page(tail)
    if form == "yuv4mpegpipe":
        return (size - head.find(Y4M_FRAME)) % (len(Y4M_FRAME) + packet) != 0
    return False


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether an Ogg ends with a whole page that says it is the last."""
    page = tail[tail.rfind(OGG_PAGE) :]
    if len(page) < OGG_HEADER:
        return False
    segments = page[OGG_HEADER : OGG_HEADER + page[OGG_HEADER - 1]]
    return bool(page[5] & OGG_LAST) and len(page) == OGG_HEADER + len(segments) + sum(segments)
