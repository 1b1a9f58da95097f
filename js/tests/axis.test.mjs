import assert from "node:assert/strict";
import { test } from "node:test";
import { pathThrough, roundNumbers, share, short, stepAxis, valueAxis } from "../axis.js";

test("a linear axis begins at 0 unless values are negative", () => {
  assert.deepEqual(valueAxis([3, 7]), { low: 0, high: 7, log: false, ticks: [0, 2, 4, 6] });
  assert.deepEqual(valueAxis([-3, 5]), { low: -3, high: 5, log: false, ticks: [-2, 0, 2, 4] });
  assert.deepEqual(valueAxis([-5, -3]).high, 0);
});

test("an axis without a range still is one", () => {
  for (const values of [[], [0, 0]]) {
    assert.deepEqual([valueAxis(values).low, valueAxis(values).high], [0, 1]);
  }
});

test("values over two decades and all above 0 stand on a logarithmic axis", () => {
  const axis = valueAxis([0.0002, 0.5]);
  assert.deepEqual([axis.log, axis.ticks], [true, [0.001, 0.01, 0.1]]);
  assert.equal(valueAxis([0, 100]).log, false);
  assert.equal(valueAxis([1, 99]).log, false);
  assert.equal(valueAxis([1, 100]).log, true);
  assert.deepEqual(valueAxis([1e-7, 10]).ticks, [1e-7, 1e-4, 0.1]);
});

test("steps are whole numbers from 1", () => {
  assert.deepEqual(stepAxis(100).ticks, [1, 20, 40, 60, 80, 100]);
  assert.deepEqual(stepAxis(3).ticks, [1, 2, 3]);
  assert.deepEqual(stepAxis(1).ticks, [1, 2]);
});

test("round numbers are free of floating-point dust", () => {
  assert.deepEqual(roundNumbers(0, 0.7, 4), [0, 0.2, 0.4, 0.6]);
  assert.deepEqual(roundNumbers(0, 1e-5, 4), [0, 5e-6, 1e-5]);
  assert.deepEqual(roundNumbers(0, 30000, 4), [0, 10000, 20000, 30000]);
});

test("the ends of an axis are 0 and 1, and a log axis is even in ratios", () => {
  const axes = [valueAxis([3, 7]), valueAxis([1, 10000])];
  for (const axis of axes) assert.deepEqual([share(axis, axis.low), share(axis, axis.high)], [0, 1]);
  assert.ok(Math.abs(share(axes[1], 100) - 0.5) < 1e-12);
});

test("numbers are short", () => {
  assert.deepEqual([0, 0.25, 12, 1234.5, 0.00015, 2e6, -0.002].map(short),
    ["0", "0.25", "12", "1230", "1.5e-4", "2e6", "-2e-3"]);
});

test("a path runs through its box, downwards for small values", () => {
  const axis = { low: 0, high: 2, log: false, ticks: [] };
  const box = { left: 10, top: 20, width: 100, height: 50 };
  assert.equal(pathThrough([[0, 0], [1, 2], [2, 1]], axis, axis, box), "M10.0 70.0L60.0 20.0L110.0 45.0");
  assert.equal(pathThrough([], axis, axis, box), "");
});
