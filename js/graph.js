// Which node of a graph, or of a graph within one of its nodes, an id of the server means.

/** The node of an execution id: "7", or "3:7" for node 7 in the subgraph that is node 3. */
export function nodeByExecutionId(graph, id) {
  return String(id)
    .split(":")
    .reduce((node, part, depth) => (depth ? node?.subgraph : graph)?.getNodeById(part), null);
}

/** The node of a locator: "7", or "<id of a subgraph>:7". */
export function nodeByLocator(graph, locator) {
  const [id, subgraph] = String(locator).split(":").reverse();
  return (subgraph ? graph?.subgraphs?.get(subgraph) : graph)?.getNodeById(id);
}
