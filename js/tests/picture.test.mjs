import assert from "node:assert/strict";
import { test } from "node:test";
import { drawGrid, drawWipe } from "../picture.js";
import { WHOLE } from "../places.js";

const clip = { width: 50, height: 30, below: 32, names: ["source", "edited", "third"] };
const video = {};

/** A canvas that notes what is drawn on it, as {from: [x, y, w, h], to: [x, y, w, h]}. */
function noting() {
  const drawn = [];
  const texts = [];
  const pen = {
    drawImage: (_, ...box) => drawn.push({ from: box.slice(0, 4), to: box.slice(4) }),
    fillText: (text, x, y) => texts.push([text, Math.floor(x / clip.width), y > clip.height]),
    strokeText() {},
  };
  return { canvas: { width: 0, height: 0, getContext: () => pen }, pen, drawn, texts };
}

test("a wipe shows one clip left of it and another right of it", () => {
  const { canvas, drawn } = noting();
  drawWipe(canvas, video, clip, { left: 0, right: 2, share: 0.3, view: WHOLE });
  assert.deepEqual([canvas.width, canvas.height], [50, 30]);
  assert.deepEqual(drawn, [
    { from: [0, 0, 15, 30], to: [0, 0, 15, 30] },
    { from: [15, 64, 35, 30], to: [15, 0, 35, 30] },
  ]);
});

test("a wipe at an edge draws one clip alone", () => {
  for (const [share, y] of [[0, 32], [1, 0]]) {
    const { canvas, drawn } = noting();
    drawWipe(canvas, video, clip, { left: 0, right: 1, share, view: WHOLE });
    assert.deepEqual(drawn, [{ from: [0, y, 50, 30], to: [0, 0, 50, 30] }]);
  }
});

test("zoomed in, the same part of both clips fills the canvas, in its single pixels", () => {
  const { canvas, drawn, pen } = noting();
  const view = { zoom: 2, x: 0.2, y: 0.5 };
  drawWipe(canvas, video, clip, { left: 1, right: 0, share: 0.4, view });
  assert.deepEqual(drawn, [
    { from: [10, 47, 10, 15], to: [0, 0, 20, 30] },
    { from: [20, 15, 15, 15], to: [20, 0, 30, 30] },
  ]);
  assert.equal(pen.imageSmoothingEnabled, false);
});

test("a grid shows every clip once, by its name", () => {
  const { canvas, drawn, texts } = noting();
  drawGrid(canvas, video, clip, { columns: 2, rows: 2, scale: 1, view: WHOLE });
  assert.deepEqual([canvas.width, canvas.height], [100, 60]);
  assert.deepEqual(drawn.map(({ to }) => to), [[0, 0, 50, 30], [50, 0, 50, 30], [0, 30, 50, 30]]);
  assert.deepEqual(drawn.map(({ from }) => from[1]), [0, 32, 64]);
  assert.deepEqual(texts, [["source", 0, false], ["edited", 1, false], ["third", 0, true]]);
});

test("a canvas keeps its size while it fits", () => {
  const { canvas } = noting();
  let changes = 0;
  for (const side of ["width", "height"]) {
    let value = clip[side];
    Object.defineProperty(canvas, side, { get: () => value, set: (v) => (changes++, (value = v)) });
  }
  drawWipe(canvas, video, clip, { left: 0, right: 1, share: 0.5, view: WHOLE });
  assert.equal(changes, 0);
});
