// The graph of a run: boxes by kind and status, the critical path, and graphs within steps opened in place.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get } from "../api.mjs";
import { count, duration, statusIcon, statusTone, statusWord, visible } from "../format.mjs";
import { html } from "../html.mjs";
import { Trouble } from "../parts.mjs";
import { navigate, withQuery } from "../route.mjs";
import { FEW, flat, hasCounts, innerLeft, layout, path, step } from "./graph_layout.mjs";
import { tallest, useView, ZOOM } from "./graph_view.mjs";
import { OFTEN, useThrottled } from "./refresh.mjs";

export function Graph({ run, nodes, onOpen }) {
  const [opened, setOpened] = useState([]);
  const { graphs, error, load } = useGraphs(run, opened, nodes);
  const drawn = useLayout(graphs, shapeOf(graphs, opened));
  if (error && !drawn) return html`<${Trouble} error=${error} />`;
  if (!drawn) return html`<p class="muted" role="status">Reading the graph …</p>`;
  const known = new Map([...graphs.values()].flatMap((graph) => graph.nodes).map((node) => [node.id, withStatus(node, nodes, run)]));
  const critical = new Set([...graphs.values()].flatMap((graph) => graph.critical_path));
  const toggle = (id) => {
    setOpened((before) => (before.includes(id) ? before.filter((one) => one !== id && !one.startsWith(`${id}.`)) : [...before, id]));
    load(id);
  };
  const open = (id) => {
    const foreach = aboveAll(id, known);
    if (foreach === null) onOpen(id);
    else navigate(withQuery({ view: "items", parent: foreach }));
  };
  return html`<${Canvas} ...${{ drawn, known, critical, onOpen: open, toggle, opened, run }} />`;
}

/** The foreach for whose items a step within it stands, `posts` of `posts.headline`: it is no node that could be opened; else null. */
function aboveAll(id, known) {
  const names = id.split(".");
  const above = names.slice(1).map((_, end) => names.slice(0, end + 1).join("."));
  return above.find((name) => known.get(name)?.foreach) ?? null;
}

/** The layout, made anew when the shape changes; that of a large graph lets what is beside it be painted first. */
function useLayout(graphs, shape) {
  const [late, setLate] = useState(null);
  const large = graphs.get("")?.nodes.length > FEW;
  const soon = useMemo(() => (graphs.has("") && !large ? layout(graphs, room()) : null), [shape]);
  useEffect(() => {
    if (!large) return undefined;
    const frame = requestAnimationFrame(() => setTimeout(() => setLate(layout(graphs, room()))));
    return () => cancelAnimationFrame(frame);
  }, [shape]);
  return large ? late : soon;
}

/** About the size in which the drawing is seen, before there is anything to measure. */
function room() {
  const width = innerWidth > 1000 ? innerWidth / 2 - 88 : innerWidth - 72;
  return { width: Math.max(240, width), height: tallest() - 24 };
}

/** The graphs at the top and of what is opened, read again as the run goes on. */
function useGraphs(run, opened, nodes) {
  const [state, set] = useState({ graphs: new Map(), error: null });
  const base = `/api/runs/${encodeURIComponent(run.run_id)}/graph`;
  const load = async (...ids) => {
    try {
      const found = await Promise.all(ids.map(async (id) => [id, await get(id ? `${base}?within=${encodeURIComponent(id)}` : base)]));
      set((before) => ({ graphs: new Map([...before.graphs, ...found]), error: null }));
    } catch (error) {
      set((before) => ({ ...before, error }));
    }
  };
  useThrottled(() => load("", ...opened), OFTEN, [run.run_id, run.changes, run.status]);
  const graphs = new Map([...state.graphs].filter(([id]) => !id || opened.includes(id)));
  return { graphs, error: state.error, load };
}

/** What a layout depends on: not on statuses. */
function shapeOf(graphs, opened) {
  return JSON.stringify([opened, [...graphs].map(([id, graph]) => [id, graph.edges.length, graph.nodes.map((node) => [node.id, hasCounts(node)])])]);
}

function withStatus(node, nodes, run) {
  const live = nodes.get(node.id);
  if (!live) return node;
  return { ...node, status: live.status === "running" && run.status !== "running" ? "cancelled" : live.status, live };
}

function Canvas({ drawn, known, critical, onOpen, toggle, opened, run }) {
  const frame = useRef(null);
  const view = useView(frame, drawn);
  const all = useMemo(() => flat(drawn), [drawn]);
  const [at, setAt] = useState(null);
  const current = all.some((box) => box.node.id === at) ? at : all[0]?.node.id;
  const go = (id) => {
    if (id === null) return;
    setAt(id);
    const box = all.find((one) => one.node.id === id);
    view.reveal(box);
    frame.current.querySelector(`[data-node="${CSS.escape(id)}"]`)?.focus({ preventScroll: true });
  };
  const key = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const node = known.get(current);
    const action = {
      Enter: () => onOpen(current),
      " ": () => node.inner && toggle(current),
      "+": () => view.zoom(ZOOM.step),
      "=": () => view.zoom(ZOOM.step),
      "-": () => view.zoom(1 / ZOOM.step),
      0: () => view.fit(),
      Home: () => go(all[0].node.id),
      End: () => go(all.at(-1).node.id),
    }[event.key];
    if (!action && !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    if (action) action();
    else go(step(drawn, all, current, event.key));
  };
  return html`<div class="graph">
    <div class="graph-tools">
      <${Legend} kinds=${new Set(all.map((box) => box.node.kind))} critical=${critical.size > 0} />
      <div class="buttons"><button class="quiet" aria-label="Zoom out" title="Zoom out (−)" onClick=${() => view.zoom(1 / ZOOM.step)}>−</button><button class="quiet" aria-label="Zoom in" title="Zoom in (+)" onClick=${() => view.zoom(ZOOM.step)}>+</button><button class="quiet" title="Show all of it (0)" onClick=${view.fit}>Fit</button></div>
    </div>
    <div class=${`graph-frame ${view.moved ? "moved" : ""}`} style=${{ height: `${view.height}px` }} ref=${frame} role="group" aria-label=${`Graph of ${all.length} steps. Arrow keys go along its edges, Enter opens a step, Space the graph within it.`} onKeyDown=${key} ...${view.drag}>
      <svg width="100%" height="100%" aria-hidden=${all.length === 0}>
        <${Markers} />
        <g class=${view.scale < 0.45 ? "small" : ""} transform=${`translate(${view.x.toFixed(1)} ${view.y.toFixed(1)}) scale(${view.scale.toFixed(4)})`}>
          <${Level} ...${{ drawn, known, critical, current, opened, toggle, onOpen, setAt, run }} />
        </g>
      </svg>
    </div>
  </div>`;
}

function Level({ drawn, known, critical, ...rest }) {
  return html`
    <g class="edges">${drawn.lines.map((line) => html`<path key=${`${line.from}>${line.to}`} class=${edgeClass(line, known, critical)} d=${path(line.points, drawn.direction)} marker-end=${critical.has(line.from) && critical.has(line.to) ? "url(#arrow-critical)" : "url(#arrow)"} />`)}</g>
    ${drawn.boxes.map((box) => html`<${Box} key=${box.node.id} ...${{ box, node: known.get(box.node.id) ?? box.node, critical: critical.has(box.node.id), known, paths: critical, ...rest }} />`)}
  `;
}

function edgeClass(line, known, critical) {
  const names = ["edge"];
  if (line.optional) names.push("optional");
  if (critical.has(line.from) && critical.has(line.to)) names.push("critical");
  else if (known.get(line.to)?.status === "pending") names.push("ahead");
  return names.join(" ");
}

function Box({ box, node, critical, known, paths, current, opened, toggle, onOpen, setAt, run }) {
  const { x, y, width, height } = box;
  const head = box.head ?? height;
  const names = `box kind-${node.kind} tone-${statusTone(node.status)} ${node.status === "pending" ? "pending" : ""} ${critical ? "critical" : ""}`;
  const open = opened.includes(node.id);
  const click = (event) => {
    event.stopPropagation();
    setAt(node.id);
    onOpen(node.id);
  };
  return html`<g class=${names} transform=${`translate(${x.toFixed(1)} ${y.toFixed(1)})`}>
    <g class="target" data-node=${node.id} role="button" tabindex=${current === node.id ? 0 : -1} aria-label=${spoken(node, critical)} aria-expanded=${node.inner ? String(open) : null} onClick=${click} onFocus=${() => setAt(node.id)}>
      <title>${visible(spoken(node, critical))}</title>
      ${node.foreach && html`<path class="stack" d=${`M6 ${-3.5}H${width - 2}a5 5 0 0 1 5 5V${height - 6}`} />`}
      <${Shape} kind=${node.kind} width=${width} height=${height} />
      <rect class="stripe" x="0.75" y="6" width="3.5" height=${head - 12} rx="1.5" />
      <g transform="translate(12 7)">${statusIcon(node.status)}</g>
      <text class="name" x="34" y="20">${shortened(visible(node.title), width - (node.inner ? 62 : 44))}</text>
      <g class="glyph" transform="translate(12 26)"><${Glyph} kind=${node.kind} /></g>
      <text class="words" x="34" y="37">${words(node)}</text>
      ${(node.foreach || hasCounts(node)) && html`<${Bar} node=${node} width=${width - 24} y=${46} />`}
    </g>
    ${node.inner && html`<${Toggle} ...${{ node, open, toggle, x: width - 26 }} />`}
    ${box.inner && html`<g transform=${`translate(${innerLeft(box).toFixed(1)} ${box.head})`}><${Level} drawn=${box.inner} known=${known} critical=${paths} ...${{ current, opened, toggle, onOpen, setAt, run }} /></g>`}
  </g>`;
}

function Toggle({ node, open, toggle, x }) {
  const click = (event) => {
    event.stopPropagation();
    toggle(node.id);
  };
  return html`<g class="toggle" transform=${`translate(${x} 4)`} onClick=${click} onPointerDown=${(event) => event.stopPropagation()}>
    <title>${open ? "Close the graph within (Space)" : "Open the graph within (Space)"}</title>
    <rect width="22" height="22" rx="4" /><path d=${open ? "M6.5 11h9" : "M6.5 11h9M11 6.5v9"} />
  </g>`;
}

/** Corners by kind: a step that asks a model is round, one that computes has cut corners, a graph a double frame. */
function Shape({ kind, width, height }) {
  if (kind === "prompt" || kind === "embed") return html`<rect class="frame" width=${width} height=${height} rx="10" />`;
  if (kind === "workflow") return html`<rect class="frame" width=${width} height=${height} rx="4" /><rect class="within" x="3" y="3" width=${width - 6} height=${height - 6} rx="2" />`;
  const [cut, right, bottom] = [7, width, height];
  if (kind === "value") return html`<rect class="frame" width=${width} height=${height} rx="1" />`;
  return html`<path class="frame" d=${`M${cut} 0H${right - cut}L${right} ${cut}V${bottom - cut}L${right - cut} ${bottom}H${cut}L0 ${bottom - cut}V${cut}z`} />`;
}

const GLYPHS = {
  prompt: "M2 3.5h12v7H8l-3 3v-3H2z",
  embed: "M3 12 13 4M13 4H9.4M13 4v3.6M3 4v8h10",
  http: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M2 8h12M8 2c-4 4-4 8 0 12M8 2c4 4 4 8 0 12",
  shell: "m3 4.5 3.5 3.5L3 11.5M8 12h5",
  python: "M6 3C3.5 3 5 7.4 3 8c2 .6.5 5 3 5M10 3c2.5 0 1 4.4 3 5-2 .6-.5 5-3 5",
  value: "M3.5 6h9M3.5 10h9",
  workflow: "M5.5 2.5h5v4h-5zM2 10.5h4.5v3.5H2zM9.5 10.5H14v3.5H9.5zM8 6.5v2M4.2 10.5v-2h7.6v2",
};

function Glyph({ kind }) {
  return html`<svg class="kind-glyph" viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path d=${GLYPHS[kind] ?? GLYPHS.value} /></svg>`;
}

function Bar({ node, width, y }) {
  const { total, parts } = shares(node);
  let x = 12;
  return html`<g class="progress">
    <rect class="track" x="12" y=${y} width=${width} height="5" rx="2.5" />
    ${parts.map(([status, number]) => {
      const wide = total ? (number / total) * width : 0;
      const part = html`<rect key=${status} class=${`part tone-${statusTone(status)}`} x=${x} y=${y} width=${wide} height="5" />`;
      x += wide;
      return part;
    })}
  </g>`;
}

const ENDED = ["succeeded", "failed", "skipped", "blocked", "cancelled"];

function shares(node) {
  const counts = node.counts;
  const begun = Object.values(counts).reduce((sum, number) => sum + number, 0);
  const total = Math.max(node.live?.total ?? 0, begun);
  return { total, begun, ended: ENDED.reduce((sum, status) => sum + (counts[status] ?? 0), 0), parts: ENDED.slice(0, 2).map((status) => [status, counts[status] ?? 0]) };
}

function words(node) {
  if (node.foreach || hasCounts(node)) {
    const { total, begun, ended } = shares(node);
    const unsent = node.live?.counts?.not_sent;
    const failed = node.counts.failed ? `, ${count(node.counts.failed)} failed` : unsent ? `, ${count(unsent)} not sent` : "";
    if (begun) return `${count(ended)} of ${node.live?.total || node.status !== "running" ? count(total) : `${count(total)}+`}${failed}`;
  }
  const took = node.live?.finished_at && node.live.started_at ? ` ${duration(node.live.finished_at - node.live.started_at)}` : "";
  const word = node.live?.cached ? "cached" : statusWord(node.status);
  return `${word}${node.status === "pending" ? "" : took}`;
}

function spoken(node, critical) {
  const [error, said, status] = [node.live?.error ? `: ${node.live.error}` : "", words(node), statusWord(node.status)];
  return `${node.title}, ${node.kind}${node.foreach ? " for each item" : ""}, ${said.startsWith(status) ? said : `${status}, ${said}`}${error}${critical ? ", on the critical path" : ""}`;
}

function shortened(text, width) {
  const most = Math.max(4, Math.floor(width / 7));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function Legend({ kinds, critical }) {
  return html`<p class="legend">
    ${[...kinds].map((kind) => html`<span key=${kind}><${Glyph} kind=${kind} /> ${kind}</span>`)}
    ${critical && html`<span><i class="line critical"></i> critical path</span>`}
  </p>`;
}

function Markers() {
  const arrow = (id) => html`<marker id=${id} viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse" markerUnits="userSpaceOnUse"><path d="M0.5 0.8 7.5 4 0.5 7.2z" /></marker>`;
  return html`<defs>${arrow("arrow")}${arrow("arrow-critical")}</defs>`;
}
