// Variants beside each other: one axis of a matrix as columns, the others as rows, whose answers open in place.
import { useEffect, useState } from "preact/hooks";
import { get } from "../api.mjs";
import { count, dollars, duration, statusIcon, statusWord, visible } from "../format.mjs";
import { html } from "../html.mjs";
import { Trouble } from "../parts.mjs";
import { navigate, useRoute, withQuery } from "../route.mjs";
import { useRoving } from "../roving.mjs";
import { Value, partPath } from "../values.mjs";
import { Failure } from "./drawer.mjs";
import { useThrottled } from "./refresh.mjs";

const EVERY = 1000;
const ROWS = 60; // that are made at once: the others as somebody comes near to them
const NEAR = 800;

export function Matrix({ run, parent, onOpen }) {
  const { query } = useRoute();
  const [{ found, error }, set] = useState({ found: null, error: null });
  const [open, setOpen] = useState(new Set());
  const read = () => get(`/api/runs/${encodeURIComponent(run.run_id)}/matrix?${new URLSearchParams({ parent })}`).then(
    (grid) => set({ found: grid, error: null }),
    (problem) => set({ found: null, error: problem }),
  );
  useThrottled(read, EVERY, [run.run_id, run.status, parent, run.changes]);
  const [most, setMost] = useState(ROWS);
  const failing = query.get("only") === "failed";
  const column = found && Math.max(0, query.get("columns") ? found.axes.findIndex((axis) => axis.name === query.get("columns")) : found.axes.length - 1);
  const grid = found?.axes.length ? gridOf(found, column) : null;
  const rows = grid?.rows.filter((row) => !failing || failed(row)) ?? [];
  const shown = rows.slice(0, most);
  const stops = useRoving(shown.length);
  const scrolled = ({ currentTarget: box }) => box.scrollTop + box.clientHeight > box.scrollHeight - NEAR && most < rows.length && setMost(most + ROWS);
  if (error) return html`<${Trouble} error=${error} />`;
  if (!found) return html`<p class="muted" role="status">Reading variants …</p>`;
  const back = html`<a class="button" href=${withQuery({ view: "items", columns: null, only: null })}>As dots and a table</a>`;
  if (!grid) return html`<section class="notice"><p>These items are not those of a matrix.</p><p>${back}</p></section>`;
  const toggle = (key) => setOpen((before) => new Set(before.has(key) ? [...before].filter((one) => one !== key) : [...before, key]));
  const failures = grid.rows.filter(failed).length;
  return html`<section class="matrix" aria-label=${`Variants of ${parent}`}>
    <div class="matrix-head">
      <label>Columns <select value=${grid.axis.name} onChange=${(event) => navigate(withQuery({ columns: event.currentTarget.value }), { replace: true })}>
        ${found.axes.map((axis) => html`<option key=${axis.name} value=${axis.name} selected=${axis.name === grid.axis.name}>${visible(axis.name)} (${axis.values.length})</option>`)}
      </select></label>
      <span class="muted">${failing ? `${count(rows.length)} of ` : ""}${count(grid.rows.length)} rows${found.more > 0 ? `, ${count(found.more)} more items are in the table alone` : ""}</span>
      ${(failures > 0 || failing) && html`<a class="button" aria-current=${failing ? "true" : null} href=${withQuery({ only: failing ? null : "failed" })}>${failing ? "Show all rows" : `Only the ${count(failures)} with failures`}</a>`}
      ${back}
    </div>
    <div class="card sideways" onScroll=${scrolled} tabindex="0" role="region" aria-label="Variants, a table"><table style=${{ "--columns": grid.axis.values.length }}>
      <thead><tr>
        <th scope="col">${grid.others.map((axis) => visible(axis.name)).join(" · ")}</th>
        ${grid.axis.values.map((value, at) => html`<th key=${at} scope="col"><span class="label">${value}</span><${Sums} cells=${grid.byColumn[at]} /></th>`)}
      </tr></thead>
      <tbody onKeyDown=${stops.keys}>${shown.map((row, at) => html`<${Row} key=${row.key} ...${{ run, row, onOpen }} stop=${stops.stop(at)} open=${open.has(row.key)} onToggle=${() => toggle(row.key)} />`)}</tbody>
    </table></div>
  </section>`;
}

function failed(row) {
  return row.cells.some((cell) => cell?.status === "failed");
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

function Row({ run, row, open, onToggle, onOpen, stop }) {
  return html`<tr class=${open ? "open" : ""}>
    <th scope="row"><button class="quiet" ...${stop} aria-expanded=${open} onClick=${onToggle}><span aria-hidden="true">${open ? "▾" : "▸"}</span><span class="labels">${row.labels.map((label, at) => html`<span key=${at} class="label">${label}</span>`)}</span></button></th>
    ${row.cells.map((cell, at) => html`<td key=${at}>${cell ? (open ? html`<${Whole} run=${run} cell=${cell} onOpen=${onOpen} />` : html`<${Cell} cell=${cell} onToggle=${onToggle} />`) : html`<span class="muted">${run.status === "running" ? "not begun" : "did not run"}</span>`}</td>`)}
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
