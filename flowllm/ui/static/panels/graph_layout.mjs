// Where the boxes and lines of a graph go. Pure, but for the measuring of text.
import * as dagre from "dagre";

export const BOX = { least: 112, most: 230, height: 46, bar: 12, pad: 14 };
const GAP = { rank: 38, node: 14 };
const MOST_FOR_DAGRE = 300;
export const FEW = 60;
const SPREAD = 2.5; // what lines that pass between boxes take, found by measuring

const pen = typeof document === "undefined" ? null : document.createElement("canvas").getContext("2d");

/** The width of a text in px, in the font of the titles. */
function textWidth(text, font = "600 13px system-ui") {
  if (!pen) return text.length * 7;
  pen.font = font;
  return pen.measureText(text).width;
}

/**
 * `graphs` are the graphs by the node that they are within ("" at the top), as the server gives them; those of opened nodes are
 * drawn within these. Gives `{direction, width, height, boxes: [{node, x, y, width, height, inner}], lines: [{from, to, optional, points}]}`,
 * with places of the upper left corners; from the top down or from left to right, as is seen larger in a `room` of that size.
 * Lines that follow from others are left out: their ends are waited for anyway.
 */
export function layout(graphs, room, within = "") {
  const { nodes, edges } = graphs.get(within);
  const boxes = new Map(nodes.map((node) => [node.id, boxOf(node, graphs, room)]));
  const wide = nodes.length > MOST_FOR_DAGRE;
  const direction = wide ? "LR" : larger([...boxes.values()], room);
  return { direction, ...(wide ? inColumns : byDagre)(nodes, reduced(nodes, edges), boxes, wide ? room : direction) };
}

/** The direction in which boxes are seen larger, by what their generations take along and across. */
function larger(boxes, room) {
  const generations = [];
  for (const box of boxes) (generations[box.node.generation] ??= []).push(box);
  const scale = (along, across, [long, cross], gaps) => {
    const most = generations.reduce((sum, generation) => sum + gaps[0] + Math.max(...generation.map((box) => box[along])), 0);
    const beside = Math.max(...generations.map((generation) => generation.reduce((sum, box) => sum + gaps[1] + box[across], 0)));
    return Math.min(1, long / most, cross / (beside * spread));
  };
  const gaps = [GAP.rank, GAP.node];
  const spread = boxes.length > FEW ? SPREAD : 1;
  const right = scale("width", "height", [room.width, room.height], gaps);
  return right > scale("height", "width", [room.height, room.width], gaps) ? "LR" : "TB";
}

/** The edges without which something else could begin: not those between ends that a longer way joins too. */
function reduced(nodes, edges) {
  const after = new Map(nodes.map(({ id }) => [id, []]));
  for (const [from, to] of edges) after.get(from).push(to);
  const reach = new Map();
  const order = [...nodes].sort((one, other) => other.generation - one.generation);
  for (const { id } of order) {
    const found = new Set();
    for (const next of after.get(id)) {
      found.add(next);
      for (const one of reach.get(next)) found.add(one);
    }
    reach.set(id, found);
  }
  return edges.filter(([from, to]) => !after.get(from).some((other) => other !== to && reach.get(other).has(to)));
}

function boxOf(node, graphs, room) {
  const inner = node.inner && graphs.has(node.id) ? layout(graphs, room, node.id) : null;
  const words = Math.max(textWidth(node.title) + (node.inner ? 68 : 48), textWidth(node.foreach || hasCounts(node) ? "50.0 k of 50.0 k, 999 failed" : "succeeded 00.0 s", "12px system-ui") + 50);
  const width = Math.min(BOX.most, Math.max(BOX.least, words));
  const height = BOX.height + (node.foreach || hasCounts(node) ? BOX.bar : 0);
  if (!inner) return { node, width, height, inner };
  return { node, width: Math.max(width, inner.width + 2 * BOX.pad), height: height + inner.height + BOX.pad, head: height, inner };
}

export function hasCounts(node) {
  return Object.keys(node.counts).length > 0;
}

function byDagre(nodes, edges, boxes, direction) {
  const graph = new dagre.Graph();
  graph.setGraph({ rankdir: direction, ranker: nodes.length > FEW ? "tight-tree" : "network-simplex", ranksep: GAP.rank, nodesep: GAP.node, marginx: 2, marginy: 2 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const { id } of nodes) graph.setNode(id, { width: boxes.get(id).width, height: boxes.get(id).height });
  for (const [from, to] of edges) graph.setEdge(from, to);
  dagre.layout(graph);
  const placed = nodes.map(({ id }) => {
    const { x, y, width, height } = graph.node(id);
    return { ...boxes.get(id), x: x - width / 2, y: y - height / 2 };
  });
  const at = new Map(placed.map((box) => [box.node.id, box]));
  const lines = edges.map(([from, to, optional]) => ({ from, to, optional, points: joined(at.get(from), at.get(to), graph.edge(from, to).points, direction) }));
  return { ...size(placed, lines), boxes: placed, lines };
}

/** A line through these points, from the middle of one box's side to the middle of the other's. */
function joined(from, to, points, direction) {
  const right = direction === "LR";
  const [begin, end] = right
    ? [{ x: from.x + from.width, y: from.y + from.height / 2 }, { x: to.x, y: to.y + to.height / 2 }]
    : [{ x: from.x + from.width / 2, y: from.y + from.height }, { x: to.x + to.width / 2, y: to.y }];
  const between = points.length < 4 ? [] : points.slice(1, -1).filter((point) => (right ? point.x > begin.x && point.x < end.x : point.y > begin.y && point.y < end.y));
  return [begin, ...between, end];
}

/** Generations from left to right, in columns that fill the room: what is larger than dagre lays out in a moment. */
function inColumns(nodes, edges, boxes, room) {
  const generations = [];
  const most = Math.ceil(Math.sqrt((nodes.length * BOX.least * room.height) / ((BOX.height + GAP.node / 2) * room.width)));
  for (const node of nodes) (generations[node.generation] ??= []).push(node);
  const placed = new Map();
  let x = 2;
  for (const generation of generations) {
    for (let begin = 0; begin < generation.length; begin += most) {
      const column = generation.slice(begin, begin + most).map(({ id }) => boxes.get(id));
      let y = 2;
      for (const box of column) {
        placed.set(box.node.id, { ...box, x, y });
        y += box.height + GAP.node / 2;
      }
      x += Math.max(...column.map((box) => box.width)) + GAP.node;
    }
    x += 2 * GAP.rank;
  }
  const lines = edges.map(([from, to, optional]) => ({ from, to, optional, points: joined(placed.get(from), placed.get(to), [], "LR") }));
  const found = [...placed.values()];
  return { ...size(found, lines), boxes: found, lines };
}

function size(boxes, lines) {
  const points = lines.flatMap((line) => line.points);
  return {
    width: Math.max(0, ...boxes.map((box) => box.x + box.width), ...points.map((point) => point.x)) + 2,
    height: Math.max(0, ...boxes.map((box) => box.y + box.height), ...points.map((point) => point.y)) + 2,
  };
}

/** A smooth line through points, which leaves and enters boxes straight. */
export function path(points, direction) {
  const text = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  const curves = points.slice(1).map(({ x, y }, at) => {
    const before = points[at];
    const middle = direction === "LR" ? (before.x + x) / 2 : (before.y + y) / 2;
    return direction === "LR" ? `C${text(middle, before.y)} ${text(middle, y)} ${text(x, y)}` : `C${text(before.x, middle)} ${text(x, middle)} ${text(x, y)}`;
  });
  return `M${text(points[0].x, points[0].y)}${curves.join("")}`;
}

/** All boxes with where they are drawn, those within others behind them: `[{...box, left, top}]`. */
export function flat(drawn, left = 0, top = 0) {
  return drawn.boxes.flatMap((box) => {
    const here = { ...box, left: left + box.x, top: top + box.y };
    return box.inner ? [here, ...flat(box.inner, here.left + innerLeft(box), here.top + box.head)] : [here];
  });
}

export function innerLeft(box) {
  return (box.width - box.inner.width) / 2;
}

const ALONG = { TB: { ArrowDown: 1, ArrowUp: -1 }, LR: { ArrowRight: 1, ArrowLeft: -1 } };

/**
 * Where an arrow key leads from a box: in the direction of the drawing along its edges, across it to the nearest box beside. Null:
 * nowhere.
 */
export function step(drawn, all, from, key) {
  const here = all.find((box) => box.node.id === from);
  if (!here) return all[0]?.node.id ?? null;
  const level = levelOf(drawn, from);
  const peers = all.filter((box) => level.boxes.some((one) => one.node.id === box.node.id) && box !== here);
  const along = ALONG[level.direction][key];
  if (along) {
    const ends = level.lines.filter((line) => (along > 0 ? line.from : line.to) === from).map((line) => (along > 0 ? line.to : line.from));
    return nearest(peers.filter((box) => ends.includes(box.node.id)), here);
  }
  const across = level.direction === "TB" ? ["left", "top", "height"] : ["top", "left", "width"];
  const forward = key === "ArrowRight" || key === "ArrowDown";
  return nearest(peers.filter((box) => beside(box, here, across) && (forward ? box[across[0]] > here[across[0]] : box[across[0]] < here[across[0]])), here);
}

/** The drawing, of those within each other, that has this box. */
function levelOf(drawn, id) {
  if (drawn.boxes.some((box) => box.node.id === id)) return drawn;
  return drawn.boxes.reduce((found, box) => found ?? (box.inner ? levelOf(box.inner, id) : null), null);
}

function beside(box, here, [, at, size]) {
  return box[at] < here[at] + here[size] && here[at] < box[at] + box[size];
}

function nearest(boxes, here) {
  const middle = (box) => [box.left + box.width / 2, box.top + box.height / 2];
  const [x, y] = middle(here);
  const distance = (box) => Math.hypot(middle(box)[0] - x, middle(box)[1] - y);
  return boxes.reduce((best, box) => (best === null || distance(box) < distance(best) ? box : best), null)?.node.id ?? null;
}
