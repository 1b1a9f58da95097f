// What the pack adds to the front end: a plot in nodes that report numbers while they run, a player
// in the node that compares clips, and the switch between a tiny and a real model's settings.
// Without this file everything else still works.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { nodeByExecutionId, nodeByLocator } from "./graph.js";
import { PLAYER_HEIGHT, PLAYER_WIDTH, makePlayer } from "./player.js";
import { PLOT_HEIGHT, makePlot } from "./plot.js";
import { emptySeries, extended } from "./series.js";
import { setAll, tinyOnes } from "./settings.js";

const LOSSES = "LOSS_MAP"; // nodes of ours that give it report numbers while they run
const MARGIN = 6; // around what is placed in a node
const COMPARISON = "rescore_comparison"; // under this name the server's output tells of the clips

const plots = new WeakMap(); // node -> {plot, series}
const players = new WeakMap(); // node -> {player, file}

/** Puts an element into a node, below its other widgets; nothing of it is saved. */
function place(node, name, element, height) {
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => (element.hidden ? 0 : height + 2 * MARGIN),
    getMaxHeight: () => (element.hidden ? 0 : undefined),
  });
  widget.serialize = false;
}

/** Makes a node at least as wide as told, and high enough for what is in it. */
function grow(node, width = 0) {
  const least = node.computeSize();
  node.setSize([Math.max(node.size[0], least[0], width), Math.max(node.size[1], least[1])]);
}

/** A plot, unseen until there is something to plot; the new renderer misses widgets added later. */
function addPlot(node) {
  const plot = makePlot();
  plot.element.hidden = true;
  place(node, "rescore_plot", plot.element, PLOT_HEIGHT);
  plots.set(node, { plot, series: emptySeries() });
}

function showProgress(node, message) {
  const entry = plots.get(node);
  if (!entry || message.steps < 2) return; // a single number is no curve
  entry.series = extended(entry.series, message);
  if (entry.plot.element.hidden) {
    entry.plot.element.hidden = false;
    grow(node);
  }
  entry.plot.show(entry.series);
}

function addPlayer(node) {
  const player = makePlayer();
  place(node, "rescore_player", player.element, PLAYER_HEIGHT);
  grow(node, PLAYER_WIDTH);
  players.set(node, { player, file: null });
  const before = node.onRemoved;
  node.onRemoved = function (...given) {
    before?.apply(this, given);
    player.close();
  };
}

function showComparison(node, output) {
  const entry = players.get(node);
  const clip = output?.[COMPARISON]?.[0];
  if (!entry || !clip || clip.filename === entry.file) return;
  entry.file = clip.filename;
  const { filename, subfolder, type } = clip;
  entry.player.show(api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`), clip);
}

/** Lets a node's only widget switch the settings of its graph. */
function addSwitch(node) {
  node.isVirtualNode = true; // it changes other nodes, and the server never sees it
  const [widget] = node.widgets;
  const before = widget.callback;
  widget.callback = function (value, ...given) {
    before?.call(this, value, ...given);
    switchSettings(node, value === "real model");
  };
}

function switchSettings(node, real) {
  const { nodes } = node.graph;
  const settings = node.properties.settings ?? [];
  const missing = setAll(nodes, settings, real);
  const tiny = real ? tinyOnes(nodes) : [];
  if (!settings.length) tell("warn", "This node has no settings: take it from a shipped graph.");
  if (missing.length) tell("warn", `Not in this graph, so not set: ${missing.join(", ")}.`);
  if (tiny.length) tell("info", `Now put a real model in place of ${tiny.join(", ")}: see the note.`);
  node.graph.setDirtyCanvas(true, true);
}

function tell(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "Tiny or Real Model", detail, life: 12000 });
}

app.registerExtension({
  name: "rescore.view",
  setup() {
    api.addEventListener("rescore.progress", ({ detail }) => {
      const node = nodeByExecutionId(app.graph.rootGraph ?? app.graph, detail.node);
      if (node) showProgress(node, detail);
    });
    api.addEventListener("executed", ({ detail }) => {
      const root = app.graph.rootGraph ?? app.graph;
      showComparison(nodeByExecutionId(root, detail.display_node ?? detail.node), detail.output);
    });
  },
  nodeCreated(node) {
    const ours = node.comfyClass?.startsWith("ReScore");
    if (ours && node.outputs.some(({ type }) => type === LOSSES)) addPlot(node);
    if (node.comfyClass === "ReScoreViewComparison") addPlayer(node);
    if (node.comfyClass === "ReScoreTinyOrReal") addSwitch(node);
  },
  // Outputs come back when a tab or an earlier state of the graph does.
  onNodeOutputsUpdated(outputs) {
    const root = app.graph?.rootGraph ?? app.graph;
    for (const [locator, output] of Object.entries(outputs)) {
      if (output?.[COMPARISON]) showComparison(nodeByLocator(root, locator), output);
    }
  },
});
