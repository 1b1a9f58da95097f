// The player that compares up to four clips, which lie in one video: by a wipe or in a grid.

import { html } from "./dom.js";
import { drawGrid, drawWipe } from "./picture.js";
import { WHOLE, contained, gridOf, moved, placeIn, zoomed } from "./places.js";
import { frameAt, isWithin, keyAction, spanWith, stepped, timeOf, wholeSpan } from "./playback.js";

export const PLAYER_HEIGHT = 352;
export const PLAYER_WIDTH = 340;

const ZOOM_STEP = 1.5;
const STYLE = `
  .rescore-player { position: relative; min-height: ${PLAYER_HEIGHT}px; box-sizing: border-box;
    display: flex; flex-direction: column; gap: 4px; font: 11px sans-serif; padding: 4px;
    border-radius: 4px; color: var(--fg-color, #ddd); background: var(--comfy-input-bg, #222); }
  .rescore-player:focus-visible { outline: 1px solid var(--fg-color, #ddd); }
  .rescore-player-stage { position: relative; flex: 1; min-height: 0; overflow: hidden;
    cursor: ew-resize; touch-action: none; }
  .rescore-player-stage.grid { cursor: move; }
  .rescore-player canvas { position: absolute; inset: 0; width: 100%; height: 100%;
    object-fit: contain; }
  .rescore-player-line { position: absolute; width: 2px; margin-left: -1px; background: #fff;
    box-shadow: 0 0 3px #000; pointer-events: none; }
  .rescore-player-note { position: absolute; inset: 0; display: grid; place-items: center;
    text-align: center; color: var(--descrip-text, #999); cursor: default; }
  .rescore-player [hidden] { display: none; }
  .rescore-player-row { display: flex; align-items: center; gap: 6px; }
  .rescore-player input { flex: 1; min-width: 0; margin: 0; }
  .rescore-player-time { position: relative; flex: 1; display: flex; }
  .rescore-player-span { position: absolute; bottom: -2px; height: 3px; border-radius: 2px;
    background: #4ea1ff; pointer-events: none; }
  .rescore-player select { max-width: 80px; font: inherit; }
  .rescore-player button, .rescore-player select { color: inherit; padding: 2px 7px;
    background: var(--comfy-menu-bg, #353535); border: 1px solid var(--border-color, #4e4e4e);
    border-radius: 3px; cursor: pointer; }
  .rescore-player-frame { margin-left: auto; color: var(--descrip-text, #999); white-space: nowrap; }`;

const button = (text, title) => html("button", { type: "button", title, "aria-label": title }, text);
const row = (...children) => html("div", { class: "rescore-player-row" }, ...children);

/** A player: {element, show(url, clip), close()}, to be placed anywhere. */
export function makePlayer() {
  const video = html("video", { playsinline: "", preload: "auto", hidden: "" });
  video.muted = video.loop = true; // sound would keep browsers from starting by themselves
  const canvas = html("canvas", { "aria-label": "the clips" });
  const line = html("div", { class: "rescore-player-line", hidden: "" });
  const note = html("div", { class: "rescore-player-note" }, "Run the graph to compare the clips.");
  const stage = html("div", { class: "rescore-player-stage" }, canvas, line, note);
  const left = html("select", { title: "The clip left of the wipe" });
  const right = html("select", { title: "The clip right of the wipe" });
  const wipe = html("input", {
    type: "range", min: 0, max: 1, step: "any", value: 0.5, "aria-label": "wipe",
    title: "How much of the left clip is seen",
  });
  const time = html("input", {
    type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": "frame",
    title: "The frame that is shown",
  });
  const spanBar = html("div", { class: "rescore-player-span" });
  const from = button("[", "Loop from this frame on");
  const to = button("]", "Loop up to this frame");
  const all = button("all", "Play the whole clip");
  const back = button("<", "One frame back (left arrow)");
  const toggle = button("pause", "Play or pause (space)");
  const forth = button(">", "One frame on (right arrow)");
  const layout = button("grid", "All clips at once, or two with a wipe");
  const out = button("\u2212", "Zoom out (mouse wheel, once the player is clicked)");
  const near = button("+", "Zoom in (mouse wheel); drag with Shift, or in the grid, to move");
  const sound = button("sound", "Sound of the first clip, on or off");
  const place = html("span", { class: "rescore-player-frame" });
  const wipeRow = row(left, wipe, right);
  const element = html(
    "div",
    // While it has the focus, Nodes 2.0 leaves the mouse wheel to it.
    { class: "rescore-player", tabindex: 0, "data-capture-wheel": "true" },
    html("style", {}, STYLE),
    video,
    stage,
    wipeRow,
    row(from, html("div", { class: "rescore-player-time" }, time, spanBar), to, all),
    row(back, toggle, forth, layout, out, near, sound, place),
  );
  /** @type {import("./picture.js").Clip | null} */
  let clip = null;
  let frame = 0;
  let span = null;
  let view = WHOLE;
  let inGrid = false;

  const stageBox = () => ({ width: stage.clientWidth, height: stage.clientHeight });

  function draw() {
    if (!clip || video.readyState < 2) return;
    if (inGrid) {
      const grid = gridOf(clip.names.length, stageBox(), clip);
      const whole = { width: grid.columns * clip.width, height: grid.rows * clip.height };
      drawGrid(canvas, video, clip, { ...grid, scale: contained(stageBox(), whole).scale, view });
    } else {
      const share = Number(wipe.value);
      const [a, b] = [left, right].map((select) => Number(select.value));
      drawWipe(canvas, video, clip, { left: a, right: b, share, view });
    }
    place.textContent = `frame ${frame + 1} / ${clip.frames}`;
    time.value = frame;
    placeLine();
  }

  function placeLine() {
    line.hidden = inGrid;
    const box = contained(stageBox(), clip);
    line.style.left = `${box.left + clip.width * box.scale * wipe.value}px`;
    line.style.top = `${box.top}px`;
    line.style.height = `${clip.height * box.scale}px`;
  }

  function follow() {
    if (!clip || video.paused) return;
    const now = frameAt(video.currentTime, clip);
    if (!video.seeking) {
      if (isWithin(now, span)) {
        frame = now;
        draw();
      } else {
        video.currentTime = timeOf(span.first, clip);
      }
    }
    requestAnimationFrame(follow);
  }

  function goTo(wanted) {
    if (!clip) return;
    video.pause();
    frame = wanted;
    video.currentTime = timeOf(frame, clip); // draws when it has got there
  }

  const step = (steps) => clip && goTo(stepped(frame, steps, span, clip));

  function playOrPause() {
    if (!clip) return;
    if (video.paused) play();
    else video.pause();
  }

  function play() {
    video.play().catch(() => {}); // refused by the browser's settings: the button stays at "play"
  }

  function loop(chosen) {
    if (!clip) return;
    span = chosen;
    const shareOf = (frames) => `${(100 * frames) / clip.frames}%`;
    spanBar.style.left = shareOf(span.first);
    spanBar.style.width = shareOf(span.last - span.first + 1);
  }

  function look(changed) {
    view = changed;
    draw();
  }

  /** Where a pointer is in what is seen of a clip, 0..1. */
  function pointed(event) {
    const box = stage.getBoundingClientRect(); // as seen, at any zoom of the graph
    const point = { x: event.clientX - box.left, y: event.clientY - box.top };
    const { x, y } = placeIn(point, box, canvas);
    const [columns, rows] = [canvas.width / clip.width, canvas.height / clip.height];
    const within = (share, count) => share * count - Math.min(Math.floor(share * count), count - 1);
    return { x: within(x, columns), y: within(y, rows) };
  }

  function drag(event) {
    if (!clip) return;
    if (inGrid || event.shiftKey) {
      const box = stage.getBoundingClientRect();
      const { scale } = contained(box, canvas);
      const [width, height] = [clip.width * scale, clip.height * scale];
      look(moved(view, -event.movementX / width, -event.movementY / height));
    } else {
      wipe.value = pointed(event).x;
      draw();
    }
  }

  function offer(select, names, chosen) {
    select.replaceChildren(...names.map((name, value) => html("option", { value }, name)));
    select.value = chosen;
    select.disabled = names.length < 3; // there is nothing to choose from
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
    draw();
  });
  video.addEventListener("error", () => {
    if (!clip) return;
    note.textContent = "The preview is no longer there; run the graph again.";
    note.hidden = false;
  });
  for (const input of [wipe, left, right]) input.addEventListener("input", draw);
  time.addEventListener("input", () => goTo(Number(time.value)));
  back.addEventListener("click", () => step(-1));
  forth.addEventListener("click", () => step(1));
  toggle.addEventListener("click", playOrPause);
  from.addEventListener("click", () => clip && loop(spanWith(span, frame)));
  to.addEventListener("click", () => clip && loop(spanWith(span, frame, true)));
  all.addEventListener("click", () => clip && loop(wholeSpan(clip)));
  out.addEventListener("click", () => look(zoomed(view, 1 / ZOOM_STEP)));
  near.addEventListener("click", () => look(zoomed(view, ZOOM_STEP)));
  layout.addEventListener("click", () => {
    inGrid = !inGrid;
    layout.textContent = inGrid ? "wipe" : "grid";
    wipeRow.style.visibility = inGrid ? "hidden" : "visible"; // nothing moves below it
    stage.classList.toggle("grid", inGrid);
    draw();
  });
  sound.addEventListener("click", () => {
    video.muted = !video.muted;
    sound.textContent = video.muted ? "sound" : "mute";
  });
  // Neither the graph nor its nodes shall move with what is done in here.
  element.addEventListener("pointerdown", (event) => event.stopPropagation());
  stage.addEventListener("pointerdown", (event) => {
    element.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    if (!inGrid && !event.shiftKey) drag(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  // The wheel belongs to the graph until somebody has clicked into the player.
  stage.addEventListener("wheel", (event) => {
    if (!clip || !element.contains(document.activeElement)) return;
    event.preventDefault();
    event.stopPropagation();
    look(zoomed(view, event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, pointed(event)));
  });
  element.addEventListener("keydown", (event) => {
    const action = keyAction(event.key);
    const { tagName } = event.target;
    if (!action || tagName === "SELECT") return;
    if (action.toggle && tagName === "BUTTON") return; // it answers to the space bar itself
    event.preventDefault();
    event.stopPropagation();
    if (action.toggle) playOrPause();
    else step(action.step);
  });
  new ResizeObserver(() => clip && draw()).observe(stage);

  return {
    element,
    show(url, shown) {
      const alike = clip?.frames === shown.frames && clip.names.length === shown.names.length;
      clip = shown;
      frame = 0;
      if (!alike) {
        offer(left, clip.names, 0);
        offer(right, clip.names, 1);
        time.max = clip.frames - 1;
        view = WHOLE;
        loop(wholeSpan(clip));
      }
      sound.hidden = !clip.sound;
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
