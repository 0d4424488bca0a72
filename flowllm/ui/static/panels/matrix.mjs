// Variants beside each other: one axis of a matrix as columns, the others as rows, whose answers open in place.
import { useEffect, useState } from "preact/hooks";
import { get } from "../api.mjs";
import { dollars, duration, statusIcon, statusWord, visible } from "../format.mjs";
import { html } from "../html.mjs";
import { Trouble } from "../parts.mjs";
import { navigate, useRoute, withQuery } from "../route.mjs";
import { Value, partPath } from "../values.mjs";
import { Failure } from "./drawer.mjs";
import { useCalm } from "./refresh.mjs";

export function Matrix({ run, parent, onOpen }) {
  const { query } = useRoute();
  const [state, set] = useState({ found: null, error: null });
  const [open, setOpen] = useState(new Set());
  const version = useCalm(run.changes);
  useEffect(() => {
    const gone = new AbortController();
    get(`/api/runs/${encodeURIComponent(run.run_id)}/matrix?${new URLSearchParams({ parent })}`, { signal: gone.signal }).then(
      (found) => set({ found, error: null }),
      (error) => gone.signal.aborted || set({ found: null, error }),
    );
    return () => gone.abort();
  }, [run.run_id, run.status, parent, version]);
  const { found, error } = state;
  if (error) return html`<${Trouble} error=${error} />`;
  if (!found) return html`<p class="muted" role="status">Reading variants …</p>`;
  const back = html`<a class="button" href=${withQuery({ view: "items", columns: null })}>As dots and a table</a>`;
  if (found.axes.length === 0) return html`<section class="notice"><p>These items are no matrix, or there are more of them than stand beside each other.</p><p>${back}</p></section>`;
  const columns = Math.max(0, found.axes.findIndex((axis) => axis.name === query.get("columns")));
  const grid = gridOf(found, query.get("columns") ? columns : found.axes.length - 1);
  const toggle = (key) => setOpen((before) => new Set(before.has(key) ? [...before].filter((one) => one !== key) : [...before, key]));
  return html`<section class="matrix" aria-label=${`Variants of ${parent}`}>
    <div class="matrix-head">
      <label>Columns <select value=${grid.axis.name} onChange=${(event) => navigate(withQuery({ columns: event.currentTarget.value }), { replace: true })}>
        ${found.axes.map((axis) => html`<option key=${axis.name} value=${axis.name} selected=${axis.name === grid.axis.name}>${visible(axis.name)} (${axis.values.length})</option>`)}
      </select></label>
      ${back}
    </div>
    <div class="card sideways" tabindex="0" role="region" aria-label="Variants, a table"><table>
      <thead><tr>
        <th scope="col">${grid.others.map((axis) => visible(axis.name)).join(" · ")}</th>
        ${grid.axis.values.map((value, at) => html`<th key=${at} scope="col"><span class="label">${value}</span><${Sums} cells=${grid.byColumn[at]} /></th>`)}
      </tr></thead>
      <tbody>${grid.rows.map((row) => html`<${Row} key=${row.key} ...${{ run, row, onOpen }} open=${open.has(row.key)} onToggle=${() => toggle(row.key)} />`)}</tbody>
    </table></div>
  </section>`;
}

/** Rows of cells: `{axis, others, rows: [{key, labels, cells}], byColumn}`. */
export function gridOf({ axes, cells }, column) {
  const others = axes.filter((_, at) => at !== column);
  const rows = new Map();
  const byColumn = axes[column].values.map(() => []);
  for (const cell of cells) {
    const at = cell.at.filter((_, axis) => axis !== column);
    const key = at.join(" ");
    if (!rows.has(key)) rows.set(key, { key, labels: at.map((value, axis) => others[axis].values[value]), cells: new Array(axes[column].values.length).fill(null) });
    rows.get(key).cells[cell.at[column]] = cell;
    byColumn[cell.at[column]].push(cell);
  }
  return { axis: axes[column], others, rows: [...rows.values()], byColumn };
}

function Sums({ cells }) {
  const known = cells.filter((cell) => cell.cost_usd !== null);
  const total = known.reduce((sum, cell) => sum + cell.cost_usd, 0);
  const times = cells.filter((cell) => cell.took_s !== null).map((cell) => cell.took_s);
  const failed = cells.filter((cell) => cell.status === "failed").length;
  return html`<span class="sums">
    ${known.length < cells.length ? (total ? `≥ ${dollars(total)}` : "cost unknown") : dollars(total)}${times.length > 0 ? `, ${duration(times.reduce((sum, time) => sum + time, 0) / times.length)} each` : ""}
    ${failed > 0 && html`<span class="failures"> ${failed} failed</span>`}
  </span>`;
}

function Row({ run, row, open, onToggle, onOpen }) {
  return html`<tr class=${open ? "open" : ""}>
    <th scope="row"><button class="quiet" aria-expanded=${open} onClick=${onToggle}><span aria-hidden="true">${open ? "▾" : "▸"}</span><span class="labels">${row.labels.map((label, at) => html`<span key=${at} class="label">${label}</span>`)}</span></button></th>
    ${row.cells.map((cell, at) => html`<td key=${at}>${cell ? (open ? html`<${Whole} run=${run} cell=${cell} onOpen=${onOpen} />` : html`<${Cell} cell=${cell} onToggle=${onToggle} />`) : html`<span class="muted">not begun</span>`}</td>`)}
  </tr>`;
}

function Cell({ cell, onToggle }) {
  return html`<div class="cell" onClick=${onToggle}>
    <p class=${cell.error ? "clamped failure-text" : "clamped"}>${statusIcon(cell.status, statusWord(cell.status))} ${cell.error ?? cell.output}</p>
  </div>`;
}

/** All of a cell, beside its neighbours. */
function Whole({ run, cell, onOpen }) {
  const [node, set] = useState(null);
  useEffect(() => {
    get(`/api/runs/${encodeURIComponent(run.run_id)}/node?${new URLSearchParams({ id: cell.id })}`).then(set, () => {});
  }, [run.run_id, cell.id, cell.status]);
  const path = (part) => partPath(run.run_id, cell.id, part);
  return html`<div class="whole">
    <p class="cell-figures">${statusIcon(cell.status)} ${statusWord(cell.status)} <span class="muted number">${duration(cell.took_s)}${cell.cost_usd !== null ? `, ${dollars(cell.cost_usd)}` : ""}</span> <button class="copy" onClick=${() => onOpen(cell.id)}>Open</button></p>
    ${node?.output && html`<${Value} name="Answer" shown=${node.output} path=${path("output")} />`}
    ${node?.error && html`<${Failure} error=${node.error} path=${path("answer")} />`}
  </div>`;
}
