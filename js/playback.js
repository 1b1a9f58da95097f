// Time, frames and places of the player that compares two clips.

/** The frame, from 0, that is shown at a time in seconds. */
export function frameAt(time, { fps, frames }) {
  // Browsers round times to microseconds, so that a frame's own time may fall just short of it.
  return Math.min(Math.max(Math.floor(time * fps + 1e-3), 0), frames - 1);
}

/** The middle of a frame, in seconds: the time to seek, where rounding cannot miss the frame. */
export function timeOf(frame, { fps }) {
  return (frame + 0.5) / fps;
}

/** The frame some steps on, round the end and the beginning. */
export function stepped(frame, steps, { frames }) {
  return (((frame + steps) % frames) + frames) % frames;
}

/** Where a picture of width x height lies in a box, as large as it fits: {left, top, scale}. */
export function contained(box, picture) {
  const scale = Math.min(box.width / picture.width, box.height / picture.height);
  return {
    left: (box.width - picture.width * scale) / 2,
    top: (box.height - picture.height * scale) / 2,
    scale,
  };
}

/** The share of a picture, 0..1 from its left edge, at `x` in a box that contains it. */
export function wipeAt(x, box, picture) {
  const { left, scale } = contained(box, picture);
  return Math.min(Math.max((x - left) / (picture.width * scale), 0), 1);
}

/** What a key asks of the player: {step}, {toggle: true}, or null. */
export function keyAction(key) {
  if (key === "ArrowLeft") return { step: -1 };
  if (key === "ArrowRight") return { step: 1 };
  return key === " " ? { toggle: true } : null;
}
