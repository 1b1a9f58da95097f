"""Long runs are told by what adds up in them, clip by clip."""

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks_on_the_path")


def test_what_adds_up_is_the_change_from_30_to_200_steps(tmp_path):
    import papers_regime
    from kept import Kept

    kept, nothing = Kept(tmp_path / "figures.json", {}), dict.fromkeys(papers_regime.COLUMNS, 0.0)
    for clip, more in enumerate((0.019, 0.020, 0.021)):
        before, after = (
            nothing | {"contamination": 0.005},
            nothing | {"contamination": 0.005 + more},
        )
        kept.add("DreamMotion: DDS", clip, {"30": before, "60": nothing, "200": after})
        kept.add("DreamMotion: + mask", clip, {"30": after, "60": nothing, "200": after})
    kept.add("DreamMotion: + S-SSM", 0, {"30": nothing, "200": nothing})
    rows = ["no edit", "DDS", "+ mask", "+ S-SSM"]
    head, _, dds, mask = papers_regime.drift(kept, "DreamMotion", rows)
    where = head.split("|").index(" change outside the object, x 1000 ")
    assert dds.split("|")[1:3] == [" DDS ", " 3 "]
    assert dds.split("|")[where] == " **20.0 ± 0.6** "
    assert mask.split("|")[where] == " 0.0 ± 0.0 "  # as far from the source, and no further
