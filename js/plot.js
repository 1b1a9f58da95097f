// The plot of a loop's numbers, step by step.

import { pathThrough, share, short, stepAxis, valueAxis } from "./axis.js";
import { html, svg } from "./dom.js";
import { runningMean, thinned } from "./series.js";

export const PLOT_HEIGHT = 150;

const COLOURS = ["#4ea1ff", "#ff9f43", "#52c77b", "#c58af9", "#e86a6a", "#9aa4ad"];
const MARGIN = { left: 42, top: 6, right: 10, bottom: 18 };
const MOST_POINTS = 400;
const STYLE = `
  .rescore-plot { position: relative; min-height: ${PLOT_HEIGHT}px; box-sizing: border-box;
    display: flex; flex-direction: column; font: 11px sans-serif; border-radius: 4px;
    color: var(--fg-color, #ddd); background: var(--comfy-input-bg, #222); padding: 4px; }
  .rescore-plot[hidden] { display: none; }
  .rescore-plot-legend { display: flex; flex-wrap: wrap; gap: 0 10px; }
  .rescore-plot-legend :last-child { margin-left: auto; color: var(--descrip-text, #999); }
  .rescore-plot-room { position: relative; flex: 1; min-height: 0; }
  .rescore-plot svg { position: absolute; inset: 0; width: 100%; height: 100%; }
  .rescore-plot line { stroke: var(--border-color, #4e4e4e); }
  .rescore-plot text { fill: var(--descrip-text, #999); font-size: 10px; }
  .rescore-plot path { fill: none; stroke-linejoin: round; }`;

/** A plot: {element, show(series)}, to be placed anywhere. */
export function makePlot() {
  const legend = html("div", { class: "rescore-plot-legend" });
  const picture = svg("svg", { role: "img", "aria-label": "numbers of each step" });
  const room = html("div", { class: "rescore-plot-room" }, picture);
  const element = html("div", { class: "rescore-plot" }, html("style", {}, STYLE), legend, room);
  let shown = null;

  function draw() {
    if (!shown || !room.clientWidth || !room.clientHeight) return;
    legend.replaceChildren(...legendOf(shown));
    picture.replaceChildren(...drawingOf(shown, room.clientWidth, room.clientHeight));
  }
  new ResizeObserver(draw).observe(room);
  return {
    element,
    show(series) {
      shown = series;
      draw();
    },
  };
}

function legendOf({ step, steps, curves }) {
  const names = [...curves].map(([name, points], i) => {
    const last = points.length ? ` ${short(points.at(-1)[1])}` : "";
    return html("span", { style: `color: ${COLOURS[i % COLOURS.length]}` }, `${name}${last}`);
  });
  return [...names, html("span", {}, `step ${step} / ${steps}`)];
}

/** Grid, numbers and curves; each curve is its points, faint, and their running mean. */
function drawingOf({ steps, curves }, width, height) {
  const box = {
    left: MARGIN.left,
    top: MARGIN.top,
    width: Math.max(width - MARGIN.left - MARGIN.right, 1),
    height: Math.max(height - MARGIN.top - MARGIN.bottom, 1),
  };
  const xAxis = stepAxis(steps);
  const yAxis = valueAxis([...curves.values()].flat().map(([, value]) => value));
  const window = Math.max(5, Math.round(steps / 20));
  const lines = [...curves.values()].flatMap((points, i) => {
    const curve = (shownPoints, opacity, strokeWidth) =>
      svg("path", {
        d: pathThrough(thinned(shownPoints, MOST_POINTS), xAxis, yAxis, box),
        stroke: COLOURS[i % COLOURS.length],
        "stroke-opacity": opacity,
        "stroke-width": strokeWidth,
        // A single point is seen as a dot.
        "stroke-linecap": "round",
      });
    return [curve(points, 0.4, 1), curve(runningMean(points, window), 1, 2)];
  });
  return [...gridOf(xAxis, yAxis, box), ...lines];
}

function gridOf(xAxis, yAxis, box) {
  const [right, bottom] = [box.left + box.width, box.top + box.height];
  const level = (value) => box.top + box.height * (1 - share(yAxis, value));
  const rows = yAxis.ticks.flatMap((tick) => [
    svg("line", { x1: box.left, x2: right, y1: level(tick), y2: level(tick) }),
    svg("text", { x: box.left - 4, y: level(tick) + 3, "text-anchor": "end" }, short(tick)),
  ]);
  const columns = xAxis.ticks.map((tick) => {
    const x = box.left + box.width * share(xAxis, tick);
    return svg("text", { x, y: bottom + 13, "text-anchor": "middle" }, String(tick));
  });
  return [...rows, ...columns];
}
