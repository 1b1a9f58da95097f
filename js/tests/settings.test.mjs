import assert from "node:assert/strict";
import { test } from "node:test";
import { setAll, tinyOnes } from "../settings.js";

const nodeOf = (type, title, values) => ({
  type,
  title,
  widgets: Object.entries(values).map(([name, value]) => ({ name, value })),
});
const valuesOf = ({ widgets }) => Object.fromEntries(widgets.map((w) => [w.name, w.value]));

const SETTINGS = [
  { node: "Loop", title: "Edit", widgets: { steps: [2, 200], describe: [true, false] } },
  { node: "Codec", title: "Encode", widgets: { posterior: ["mean", "sample"] } },
];
const graph = () => [
  nodeOf("Loop", "Edit", { steps: 2, cfg: 5, describe: true }),
  nodeOf("Loop", "Edit", { steps: 2, cfg: 5, describe: true }),
  nodeOf("Loop", "Look", { steps: 3, cfg: 5, describe: true }),
  nodeOf("Other", "Edit", { steps: 7 }),
  nodeOf("Codec", "Encode", { posterior: "mean" }),
];

test("all nodes of a type and title are set, and no other", () => {
  const nodes = graph();
  assert.deepEqual(setAll(nodes, SETTINGS, true), []);
  const real = { steps: 200, cfg: 5, describe: false };
  const others = [{ steps: 3, cfg: 5, describe: true }, { steps: 7 }, { posterior: "sample" }];
  assert.deepEqual(nodes.map(valuesOf), [real, real, ...others]);
  setAll(nodes, SETTINGS, false);
  assert.deepEqual(nodes.map(valuesOf), graph().map(valuesOf));
});

test("a widget hears of its new value", () => {
  const nodes = graph();
  const heard = [];
  nodes[0].widgets[0].callback = (value) => heard.push(value);
  setAll(nodes, SETTINGS, true);
  setAll(nodes, SETTINGS, false);
  assert.deepEqual(heard, [200, 2]);
});

test("what is gone is named, and the rest is set", () => {
  const nodes = [nodeOf("Loop", "Edit", { steps: 2 })];
  assert.deepEqual(setAll(nodes, SETTINGS, true), ["Edit: describe", "Encode"]);
  assert.deepEqual(valuesOf(nodes[0]), { steps: 200 });
  assert.deepEqual(setAll([], SETTINGS, true), ["Edit", "Encode"]);
});

test("tiny models are found by their nodes, once by title", () => {
  const tiny = (type, title) => ({ type: `ReScore${type}`, title });
  assert.deepEqual(tinyOnes([tiny("LoadVideoModel", "Load Video Model")]), []);
  const three = ["What it shows", "Nothing", "Nothing"].map((t) => tiny("ShapeWorldConditioning", t));
  assert.deepEqual(
    tinyOnes([tiny("LoadShapeWorldModel", "Load Shape-World Model"), ...three]),
    ["Load Shape-World Model", "What it shows", "Nothing"],
  );
});
