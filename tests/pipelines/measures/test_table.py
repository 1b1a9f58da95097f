"""Measures of several edits side by side."""

import csv
import io
import json
import math

import pytest
from rescore.pipelines.measures.measure import Measure, mean
from rescore.pipelines.measures.table import best, collect, columns, labels, to_csv, to_json, value


def psnr(number: float) -> Measure:
    return Measure("PSNR", number, "dB", "higher", (number, math.nan))


def lpips(number: float) -> Measure:
    return Measure("LPIPS", number, "", "lower")


@pytest.fixture
def table():
    rows = collect((), "source", [psnr(math.inf), lpips(0.0)])
    rows = collect(rows, "ours, new", [psnr(31.5)])
    rows = collect(rows, "theirs", [psnr(29.0), lpips(0.25)])
    return collect(rows, " ours, new ", [lpips(0.25)])


def test_rows_and_columns_keep_their_order(table):
    assert labels(table) == ["source", "ours, new", "theirs"]
    assert [measure.name for measure in columns(table)] == ["PSNR", "LPIPS"]
    assert value(table, "theirs", "PSNR") == 29
    assert value(table, "theirs", "SSIM") is None


def test_the_wire_is_not_changed(table):
    collect(table, "another", [psnr(1.0)])
    assert "another" not in labels(table)


def test_the_best_of_each_column_but_not_the_source(table):
    assert best(table, "PSNR", "source") == {"ours, new"}
    assert best(table, "LPIPS", "source") == {"ours, new", "theirs"}
    assert best(table, "LPIPS") == {"source"}
    assert best(collect((), "one", [psnr(1.0)]), "PSNR") == set()


def test_csv_is_read_back(table):
    rows = list(csv.reader(io.StringIO(to_csv(collect(table, "third", [psnr(1 / 3)])))))
    assert rows == [
        ["edit", "PSNR (dB)", "LPIPS"],
        ["source", "inf", "0.0"],
        ["ours, new", "31.5", "0.25"],
        ["theirs", "29.0", "0.25"],
        ["third", repr(1 / 3), ""],
    ]


def test_json_is_strict_and_keeps_everything(table):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(to_json(table), parse_constant=refuse)
    assert found["source"]["PSNR"] == {
        "value": "inf",
        "unit": "dB",
        "better": "higher",
        "each": "frame",
        "values": ["inf", None],
    }
    assert found["theirs"]["LPIPS"]["value"] == 0.25


def test_nothing_is_measured_twice(table):
    with pytest.raises(ValueError, match="'theirs' has 'PSNR' already"):
        collect(table, "theirs", [psnr(1.0)])


@pytest.mark.parametrize("label", ["", "  ", "a\nb", "x" * 81, "=1+1", "@cmd", "\tx\x00"])
def test_labels_that_are_none(label):
    with pytest.raises(ValueError, match="is no label for an edit"):
        collect((), label, [psnr(1.0)])


def test_the_mean_leaves_out_what_is_unknown():
    assert mean([1.0, math.nan, 4.0]) == 2.5
    assert math.isnan(mean([math.nan]))
    assert math.isnan(mean([]))
