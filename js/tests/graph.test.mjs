import assert from "node:assert/strict";
import { test } from "node:test";
import { nodeByExecutionId, nodeByLocator } from "../graph.js";

const graphOf = (nodes, subgraphs) => ({
  subgraphs,
  getNodeById: (id) => nodes.find((node) => node.id === Number(id)) ?? null,
});
const inner = { id: 7, name: "inner" };
const subgraph = graphOf([inner]);
const outer = graphOf(
  [{ id: 3, subgraph }, { id: 5 }],
  new Map([["0f-ab", subgraph]]),
);

test("nodes by the ids that runs use", () => {
  assert.equal(nodeByExecutionId(outer, "5").id, 5);
  assert.equal(nodeByExecutionId(outer, 5).id, 5);
  assert.equal(nodeByExecutionId(outer, "3:7"), inner);
  for (const id of ["7", "5:7", "3:5", "2:7"]) assert.ok(!nodeByExecutionId(outer, id));
});

test("nodes by the ids that outputs are kept under", () => {
  assert.equal(nodeByLocator(outer, "5").id, 5);
  assert.equal(nodeByLocator(outer, "0f-ab:7"), inner);
  assert.ok(!nodeByLocator(outer, "else:7"));
});
