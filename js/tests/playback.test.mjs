import assert from "node:assert/strict";
import { test } from "node:test";
import { contained, frameAt, keyAction, stepped, timeOf, wipeAt } from "../playback.js";

test("seeking to a frame shows that frame, at any rate", () => {
  for (const fps of [0.5, 7, 8, 23.976, 24, 29.97, 60]) {
    const clip = { fps, frames: 1009 };
    for (const frame of [0, 1, 2, 500, 1007, 1008]) {
      assert.equal(frameAt(timeOf(frame, clip), clip), frame);
      const rounded = Math.floor((frame / fps) * 1e6) / 1e6;
      assert.equal(frameAt(rounded, clip), frame);
    }
  }
});

test("times outside the clip mean its first and last frame", () => {
  const clip = { fps: 7, frames: 5 };
  assert.equal(frameAt(-1, clip), 0);
  assert.equal(frameAt(5 / 7 + 0.1, clip), 4);
});

test("stepping goes round", () => {
  const clip = { frames: 5 };
  assert.deepEqual([stepped(4, 1, clip), stepped(0, -1, clip), stepped(2, 1, clip)], [0, 4, 3]);
  assert.equal(stepped(0, -1, { frames: 1 }), 0);
});

test("a picture is centred in its box", () => {
  const box = { width: 100, height: 40 };
  assert.deepEqual(contained(box, { width: 20, height: 20 }), { left: 30, top: 0, scale: 2 });
  assert.deepEqual(contained(box, { width: 50, height: 10 }), { left: 0, top: 10, scale: 2 });
});

test("the wipe follows the pointer and stays within the picture", () => {
  const box = { width: 100, height: 40 };
  const picture = { width: 20, height: 20 };
  const at = [0, 30, 40, 50, 70, 100].map((x) => wipeAt(x, box, picture));
  assert.deepEqual(at, [0, 0, 0.25, 0.5, 1, 1]);
});

test("keys", () => {
  assert.deepEqual(keyAction("ArrowLeft"), { step: -1 });
  assert.deepEqual(keyAction("ArrowRight"), { step: 1 });
  assert.deepEqual(keyAction(" "), { toggle: true });
  assert.equal(keyAction("a"), null);
});
