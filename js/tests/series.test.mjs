import assert from "node:assert/strict";
import { test } from "node:test";
import { emptySeries, extended, runningMean, thinned } from "../series.js";

const after = (...messages) => messages.reduce(extended, emptySeries());

test("messages of one run join, each step at its place", () => {
  const { step, steps, curves } = after(
    { step: 2, steps: 7, values: { a: [5, 3] } },
    { step: 5, steps: 7, values: { a: [2, null, 1], b: [null, null, 11] } },
  );
  assert.deepEqual([step, steps], [5, 7]);
  assert.deepEqual([...curves], [["a", [[1, 5], [2, 3], [3, 2], [5, 1]]], ["b", [[5, 11]]]]);
});

test("an earlier step or another length is a new run", () => {
  const first = { step: 3, steps: 7, values: { a: [1, 2, 3] } };
  for (const next of [{ step: 1, steps: 7 }, { step: 3, steps: 7 }, { step: 5, steps: 11 }]) {
    const { curves } = after(first, { ...next, values: { b: [13] } });
    assert.deepEqual([...curves], [["b", [[next.step, 13]]]]);
  }
});

test("what was gathered stays as it was", () => {
  const before = after({ step: 1, steps: 3, values: { a: [2] } });
  extended(before, { step: 2, steps: 3, values: { a: [3] } });
  assert.deepEqual([...before.curves], [["a", [[1, 2]]]]);
});

test("a running mean looks back over its window only", () => {
  const points = [3, 5, 7, 11].map((y, x) => [x, y]);
  assert.deepEqual(runningMean(points, 2).map(([, y]) => y), [3, 4, 6, 9]);
  assert.deepEqual(runningMean(points, 1), points);
});

test("thinning keeps order and extremes", () => {
  const points = Array.from({ length: 1009 }, (_, x) => [x, Math.sin(x)]);
  points[500][1] = 17;
  points[701][1] = -19;
  const kept = thinned(points, 100);
  assert.ok(kept.length <= 100);
  assert.ok(kept.some(([x, y]) => x === 500 && y === 17));
  assert.ok(kept.some(([x, y]) => x === 701 && y === -19));
  assert.ok(kept.every(([x], i) => i === 0 || x >= kept[i - 1][0]));
  assert.equal(thinned(points.slice(0, 99), 100).length, 99);
});
