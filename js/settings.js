// The settings of a graph for its tiny model and for a real one, and what a switch changes.

/** The types of nodes that bring a tiny model into a graph. */
const TINY = ["ReScoreLoadShapeWorldModel", "ReScoreShapeWorldConditioning"];

/**
 * Sets the widgets of nodes to what a choice wants. Nodes go by type and title; of several with the
 * same title all are set.
 *
 * @param nodes those of a graph
 * @param settings of each node to set {node: its type, title, widgets: {name: [tiny, real]}}
 * @param real whether a real model's settings are wanted
 * @returns {string[]} what the graph has no more, as "title" or "title: widget"
 */
export function setAll(nodes, settings, real) {
  const missing = [];
  for (const { node: type, title, widgets } of settings) {
    const meant = nodes.filter((node) => node.type === type && node.title === title);
    if (!meant.length) missing.push(title);
    for (const node of meant) {
      for (const [name, values] of Object.entries(widgets)) {
        const widget = node.widgets?.find((known) => known.name === name);
        if (!widget) missing.push(`${title}: ${name}`);
        else set(widget, values[real ? 1 : 0]);
      }
    }
  }
  return missing;
}

function set(widget, value) {
  widget.value = value;
  widget.callback?.(value);
}

/** The titles of the nodes by which a graph still has a tiny model. */
export function tinyOnes(nodes) {
  return [...new Set(nodes.filter(({ type }) => TINY.includes(type)).map(({ title }) => title))];
}
