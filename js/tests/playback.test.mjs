import assert from "node:assert/strict";
import { test } from "node:test";
import {
  frameAt, isWithin, keyAction, spanWith, stepped, timeOf, wholeSpan,
} from "../playback.js";

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

test("stepping goes round the span that is played, or the clip outside of it", () => {
  const clip = { frames: 7 };
  const whole = wholeSpan(clip);
  assert.deepEqual(whole, { first: 0, last: 6 });
  const step = (frame, steps, span) => stepped(frame, steps, span, clip);
  assert.deepEqual([step(6, 1, whole), step(0, -1, whole), step(2, 1, whole)], [0, 6, 3]);
  const span = { first: 2, last: 4 };
  assert.deepEqual([step(4, 1, span), step(2, -1, span), step(3, 1, span)], [2, 4, 4]);
  assert.deepEqual([step(6, 1, span), step(0, -1, span), step(1, 1, span)], [0, 6, 2]);
  assert.equal(stepped(0, -1, { first: 0, last: 0 }, { frames: 1 }), 0);
});

test("an end of a span gives way to the other", () => {
  const span = { first: 3, last: 5 };
  assert.deepEqual(spanWith(span, 4), { first: 4, last: 5 });
  assert.deepEqual(spanWith(span, 9), { first: 9, last: 9 });
  assert.deepEqual(spanWith(span, 4, true), { first: 3, last: 4 });
  assert.deepEqual(spanWith(span, 1, true), { first: 1, last: 1 });
  assert.deepEqual([2, 3, 5, 6].map((frame) => isWithin(frame, span)), [false, true, true, false]);
});

test("keys", () => {
  assert.deepEqual(keyAction("ArrowLeft"), { step: -1 });
  assert.deepEqual(keyAction("ArrowRight"), { step: 1 });
  assert.deepEqual(keyAction(" "), { toggle: true });
  assert.equal(keyAction("a"), null);
});
