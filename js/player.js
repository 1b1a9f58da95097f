// The player that compares two clips: one video holds both, the first above the second, so that they
// cannot run apart. A wipe shows the first to its left and the second to its right.

import { html } from "./dom.js";
import { contained, frameAt, keyAction, stepped, timeOf, wipeAt } from "./playback.js";

export const PLAYER_HEIGHT = 300;
export const PLAYER_WIDTH = 340;

const STYLE = `
  .rescore-player { position: relative; min-height: ${PLAYER_HEIGHT}px; box-sizing: border-box;
    display: flex; flex-direction: column; gap: 4px; font: 11px sans-serif; padding: 4px;
    border-radius: 4px; color: var(--fg-color, #ddd); background: var(--comfy-input-bg, #222); }
  .rescore-player:focus-visible { outline: 1px solid var(--fg-color, #ddd); }
  .rescore-player-stage { position: relative; flex: 1; min-height: 0; overflow: hidden;
    cursor: ew-resize; touch-action: none; }
  .rescore-player canvas { position: absolute; inset: 0; width: 100%; height: 100%;
    object-fit: contain; }
  .rescore-player-line { position: absolute; width: 2px; margin-left: -1px; background: #fff;
    box-shadow: 0 0 3px #000; pointer-events: none; }
  .rescore-player-note { position: absolute; inset: 0; display: grid; place-items: center;
    text-align: center; color: var(--descrip-text, #999); cursor: default; }
  .rescore-player [hidden] { display: none; }
  .rescore-player-row { display: flex; align-items: center; gap: 6px; }
  .rescore-player-row input { flex: 1; min-width: 0; margin: 0; }
  .rescore-player button { color: inherit; background: var(--comfy-menu-bg, #353535); padding: 2px 8px;
    border: 1px solid var(--border-color, #4e4e4e); border-radius: 3px; cursor: pointer; }
  .rescore-player-row :last-child { margin-left: auto; color: var(--descrip-text, #999); }`;

const button = (text, title) => html("button", { type: "button", title, "aria-label": title }, text);

/**
 * What the server says of a comparison: `width` x `height` pixels a clip, the second `below` pixels
 * under the first, `frames` of them at `fps`.
 * @typedef {{width: number, height: number, below: number, frames: number, fps: number}} Clip
 */

/** A player: {element, show(url, clip), close()}, to be placed anywhere. */
export function makePlayer() {
  const video = html("video", { playsinline: "", preload: "auto", hidden: "" });
  video.muted = video.loop = true; // sound would keep browsers from starting by themselves
  const canvas = html("canvas", { "aria-label": "source to the left, edited to the right" });
  const line = html("div", { class: "rescore-player-line", hidden: "" });
  const note = html("div", { class: "rescore-player-note" }, "Run the graph to compare the clips.");
  const stage = html("div", { class: "rescore-player-stage" }, canvas, line, note);
  const wipe = html("input", {
    type: "range", min: 0, max: 1, step: "any", value: 0.5, "aria-label": "wipe",
    title: "How much of the source is seen",
  });
  const back = button("<", "One frame back (left arrow)");
  const toggle = button("pause", "Play or pause (space)");
  const forth = button(">", "One frame on (right arrow)");
  const place = html("span", {});
  const element = html(
    "div",
    { class: "rescore-player", tabindex: 0 },
    html("style", {}, STYLE),
    video,
    stage,
    html("div", { class: "rescore-player-row" }, "source", wipe, "edited"),
    html("div", { class: "rescore-player-row" }, back, toggle, forth, place),
  );
  /** @type {Clip | null} */
  let clip = null;
  let frame = 0;

  function draw() {
    if (!clip || video.readyState < 2) return;
    const { width, height, below } = clip;
    const edge = Math.round(width * wipe.value);
    const pen = canvas.getContext("2d");
    if (edge > 0) pen.drawImage(video, 0, 0, edge, height, 0, 0, edge, height);
    if (edge < width) {
      pen.drawImage(video, edge, below, width - edge, height, edge, 0, width - edge, height);
    }
    place.textContent = `frame ${frame + 1} / ${clip.frames}`;
    placeLine();
  }

  function placeLine() {
    const box = { width: stage.clientWidth, height: stage.clientHeight };
    const { left, top, scale } = contained(box, clip);
    line.style.left = `${left + clip.width * scale * wipe.value}px`;
    line.style.top = `${top}px`;
    line.style.height = `${clip.height * scale}px`;
  }

  function follow() {
    if (!clip || video.paused) return;
    frame = frameAt(video.currentTime, clip);
    draw();
    requestAnimationFrame(follow);
  }

  function step(steps) {
    if (!clip) return;
    video.pause();
    frame = stepped(frame, steps, clip);
    video.currentTime = timeOf(frame, clip); // draws when it has got there
  }

  function playOrPause() {
    if (!clip) return;
    if (video.paused) play();
    else video.pause();
  }

  function play() {
    video.play().catch(() => {}); // refused by the browser's settings: the button stays at "play"
  }

  function wipeTo(event) {
    if (!clip) return;
    const box = stage.getBoundingClientRect(); // as seen, at any zoom of the graph
    wipe.value = wipeAt(event.clientX - box.left, box, clip);
    draw();
  }

  for (const kind of ["play", "pause"]) {
    video.addEventListener(kind, () => {
      toggle.textContent = video.paused ? "play" : "pause";
    });
  }
  video.addEventListener("play", follow);
  video.addEventListener("seeked", draw);
  video.addEventListener("loadeddata", () => {
    note.hidden = true;
    line.hidden = false;
    draw();
  });
  video.addEventListener("error", () => {
    note.textContent = "The preview is no longer there; run the graph again.";
    note.hidden = false;
  });
  wipe.addEventListener("input", draw);
  back.addEventListener("click", () => step(-1));
  forth.addEventListener("click", () => step(1));
  toggle.addEventListener("click", playOrPause);
  // Neither the graph nor its nodes shall move with what is done in here.
  element.addEventListener("pointerdown", (event) => event.stopPropagation());
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    wipeTo(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) wipeTo(event);
  });
  element.addEventListener("keydown", (event) => {
    const action = keyAction(event.key);
    const own = event.target === element || event.target === wipe;
    if (!action || (!own && action.toggle)) return; // a focused button answers to the space bar itself
    event.preventDefault();
    event.stopPropagation();
    if (action.toggle) playOrPause();
    else step(action.step);
  });
  new ResizeObserver(() => clip && placeLine()).observe(stage);

  return {
    element,
    show(url, shown) {
      clip = shown;
      frame = 0;
      [canvas.width, canvas.height] = [clip.width, clip.height];
      video.src = url;
      play();
    },
    close() {
      clip = null;
      video.removeAttribute("src");
      video.load();
    },
  };
}
