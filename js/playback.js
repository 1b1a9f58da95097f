// Time, frames and keys of the player that compares clips.

/** The frame, from 0, that is shown at a time in seconds. */
export function frameAt(time, { fps, frames }) {
  // Browsers round times to microseconds, so that a frame's own time may fall just short of it.
  return Math.min(Math.max(Math.floor(time * fps + 1e-3), 0), frames - 1);
}

/** The middle of a frame, in seconds: the time to seek, where rounding cannot miss the frame. */
export function timeOf(frame, { fps }) {
  return (frame + 0.5) / fps;
}

/** All frames of a clip. A span is its first and last frame, which are played round and round. */
export function wholeSpan({ frames }) {
  return { first: 0, last: frames - 1 };
}

/** The span that begins, or with `end` ends, at a frame; the other end gives way if it must. */
export function spanWith({ first, last }, frame, end = false) {
  if (end) return { first: Math.min(first, frame), last: frame };
  return { first: frame, last: Math.max(last, frame) };
}

/** Whether a frame lies in a span. */
export function isWithin(frame, { first, last }) {
  return first <= frame && frame <= last;
}

/** The frame some steps on, round the end and the beginning of the span it lies in. */
export function stepped(frame, steps, span, clip) {
  const { first, last } = isWithin(frame, span) ? span : wholeSpan(clip);
  const count = last - first + 1;
  return first + ((((frame - first + steps) % count) + count) % count);
}

/** What a key asks of the player: {step}, {toggle: true}, or null. */
export function keyAction(key) {
  if (key === "ArrowLeft") return { step: -1 };
  if (key === "ArrowRight") return { step: 1 };
  return key === " " ? { toggle: true } : null;
}
