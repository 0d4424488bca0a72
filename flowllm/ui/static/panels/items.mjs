// The items of a foreach: all of them as dots, and pages of them as a table that the server sorts and searches.
import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "../api.mjs";
import { count, dollars, duration, statusIcon, statusWord, visible } from "../format.mjs";
import { html } from "../html.mjs";
import { Trouble } from "../parts.mjs";
import { navigate, useRoute, withQuery } from "../route.mjs";
import { useRoving } from "../roving.mjs";
import { Dots, WORDS } from "./dots.mjs";
import { useCalm } from "./refresh.mjs";

const PAGE = 100;
const PAUSE = 250;
const LETTERS = Object.fromEntries(Object.entries(WORDS).map(([letter, word]) => [word, letter]));
const ORDERS = { index: "By index", failed: "Failed first", slowest: "Slowest first", dearest: "Dearest first" };

export function Items({ run, parent, items, onOpen }) {
  const { query } = useRoute();
  if (!parent) return html`<p class="muted">Choose a foreach above.</p>`;
  return html`<${Foreach} key=${parent} ...${{ run, parent, items, query, onOpen }} />`;
}

function Foreach({ run, parent, items, query, onOpen }) {
  const { grid, error, moved } = useGrid(run, parent, items);
  const [only, find, sort] = [query.get("only") ?? "", query.get("find") ?? "", query.get("sort") ?? "index"];
  if (error) return html`<${Trouble} error=${error} />`;
  const node = query.get("node") ?? "";
  const open = !moved && node.startsWith(`${parent}[`) && /^\d+\]$/.test(node.slice(parent.length + 1)) ? parseInt(node.slice(parent.length + 1), 10) : -1;
  const pick = async (index) => {
    if (WORDS[String.fromCharCode(grid.codes[index])] === WORDS["."]) return;
    const name = `${parent}[${index}]`;
    onOpen(moved ? await get(`${at(run)}/item?${new URLSearchParams({ parent, index })}`).then(({ id }) => id, () => name) : name);
  };
  return html`<section class="items" aria-label=${`Items of ${parent}`}>
    ${parent.includes("[") && html`<${Trail} parent=${parent} />`}
    ${grid
      ? html`
          <${Filters} ...${{ run, parent, grid, only, find, sort }} />
          <div class="card"><${Dots} grid=${grid} only=${only ? new Set([LETTERS[only]]) : null} open=${open} label=${`Items of ${parent}`} onPick=${pick} /></div>`
      : html`<p class="muted" role="status">Reading items …</p>`}
    <div class="items" hidden=${!grid}><${Table} ...${{ run, parent, only, find, sort }} changes=${grid?.version ?? 0} node=${node} /></div>
  </section>`;
}

/** The way to items within items: each foreach on it, and the item that is opened. */
function Trail({ parent }) {
  const parts = parent.split(/(?<=\])\./);
  const steps = parts.slice(0, -1).map((_, at) => {
    const item = parts.slice(0, at + 1).join(".");
    return html`<a key=${item} href=${withQuery({ parent: item.slice(0, item.lastIndexOf("[")), node: item, only: null, find: null, sort: null })}><code>${visible(parts[at])}</code></a> › `;
  });
  return html`<p class="trail">Items of ${steps}<code>${visible(parts.at(-1))}</code></p>`;
}

function at(run) {
  return `/api/runs/${encodeURIComponent(run.run_id)}`;
}

/** All statuses, `{codes, total, counts, version}`, kept up to date by the changes that come. */
function useGrid(run, parent, items) {
  const version = useCalm(parent.includes("[") ? run.changes : 0); // changes within items are not told one by one
  const [state, set] = useState({ grid: null, error: null, moved: false });
  useEffect(() => {
    const gone = new AbortController();
    const early = [];
    let grid = null;
    let frame = 0;
    const show = () => {
      frame = 0;
      set((before) => ({ ...before, grid: { ...grid } }));
    };
    const heard = (changes) => {
      if (grid === null) return early.push(...changes);
      if (applied(grid, parent, changes) && frame === 0) frame = requestAnimationFrame(show);
      return undefined;
    };
    const stop = items.subscribe(heard);
    get(`${at(run)}/dots?${new URLSearchParams({ parent })}`, { signal: gone.signal }).then(
      (found) => {
        grid = gridOf(found);
        applied(grid, parent, early);
        set({ grid: { ...grid }, error: null, moved: found.moved });
      },
      (error) => gone.signal.aborted || set({ grid: null, error, moved: false }),
    );
    return () => {
      gone.abort();
      stop();
      cancelAnimationFrame(frame);
    };
  }, [run.run_id, run.status, parent, items, version]);
  return state;
}

/** A status as the server knows it. */
function inStore(word) {
  return word === WORDS["."] ? "pending" : word;
}

export function gridOf({ codes, total, changes }) {
  const grid = { codes: new TextEncoder().encode(codes), total, changes, version: 0, counts: {} };
  for (const code of grid.codes) grid.counts[code] = (grid.counts[code] ?? 0) + 1;
  return grid;
}

/** Take changes in, but those that the grid has already; whether it is another one now. */
export function applied(grid, parent, changes) {
  let changed = false;
  for (const [of, index, letter, number] of changes) {
    if (of !== parent || number <= grid.changes) continue;
    if (index >= grid.codes.length) {
      const larger = new Uint8Array(Math.max(index + 1, 2 * grid.codes.length)).fill(".".charCodeAt(0));
      larger.set(grid.codes);
      grid.codes = larger;
    }
    if (index >= grid.total) {
      grid.counts[46] = (grid.counts[46] ?? 0) + index + 1 - grid.total;
      grid.total = index + 1;
    }
    const code = letter.charCodeAt(0);
    grid.counts[grid.codes[index]] -= 1;
    grid.counts[code] = (grid.counts[code] ?? 0) + 1;
    grid.codes[index] = code;
    changed = true;
  }
  if (changed) grid.version += 1;
  return changed;
}

function Filters({ run, parent, grid, only, find, sort }) {
  const timer = useRef(0);
  const matrix = useMatrix(run, parent);
  const search = (event) => {
    const text = event.currentTarget.value;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => navigate(withQuery({ find: text }), { replace: true }), PAUSE);
  };
  const chip = (word, number) => html`<a
    key=${word}
    class=${`filter tone-${word === "not begun" ? "skipped" : word}`}
    href=${withQuery({ only: only === word ? null : word || null })}
    aria-current=${only === word ? "true" : null}
    >${word && statusIcon(word === "not begun" ? "pending" : word)}${word ? statusWord(word) : "All"} <span class="number">${number.toLocaleString("en")}</span></a
  >`;
  return html`<div class="items-head">
    <div class="filters-by-status">
      ${chip("", grid.total)}
      ${Object.entries(WORDS).map(([letter, word]) => grid.counts[letter.charCodeAt(0)] > 0 && chip(word, grid.counts[letter.charCodeAt(0)]))}
    </div>
    <form class="items-tools" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label><span class="unseen">Search in items, outputs and errors</span><input type="search" placeholder="Search items, outputs, errors" value=${find} onInput=${search} /></label>
      <label><span class="unseen">Order</span><select value=${sort} onChange=${(event) => navigate(withQuery({ sort: event.currentTarget.value === "index" ? null : event.currentTarget.value }), { replace: true })}>
        ${Object.entries(ORDERS).map(([name, words]) => html`<option key=${name} value=${name} selected=${name === sort}>${words}</option>`)}
      </select></label>
      ${["csv", "jsonl"].map((format) => html`<a key=${format} class="button" href=${`${at(run)}/export?${new URLSearchParams({ step: parent, format, status: inStore(only), search: find })}`} download title=${`Download ${only || find ? `the items that are ${[only, find && "found"].filter(Boolean).join(" and ")}` : "all items"}, with their outputs`}>${format === "csv" ? "CSV" : "JSON Lines"} ↓</a>`)}
      ${matrix && html`<a class="button" href=${withQuery({ view: "matrix", only: null, find: null, sort: null })}>As a matrix</a>`}
    </form>
  </div>`;
}

/** Whether the items are those of a matrix. */
function useMatrix(run, parent) {
  const [found, set] = useState(false);
  useEffect(() => {
    get(`${at(run)}/matrix?${new URLSearchParams({ parent, axes: 1 })}`).then(({ axes }) => set(axes.length > 1), () => {});
  }, [run.run_id, parent]);
  return found;
}

function Table({ run, parent, changes, only, find, sort, node }) {
  const [before, setBefore] = useState([]); // where the pages before this one begin
  const [page, set] = useState(null);
  const [after, go] = useState(0);
  const address = new URLSearchParams({ parent, status: inStore(only), search: find, sort }).toString();
  const asked = useRef("");
  useEffect(() => {
    setBefore([]);
    go(0);
  }, [address]);
  const version = useCalm(changes);
  const rows = useRoving(page?.rows.length ?? 0);
  useEffect(() => {
    const gone = new AbortController();
    const wanted = `${address}&limit=${PAGE}&after=${after}`;
    asked.current = wanted;
    pageOf(run, wanted, gone.signal).then(
      (found) => asked.current === wanted && set({ ...found, address, after, error: null }),
      (error) => gone.signal.aborted || set({ rows: [], error, address, after }),
    );
    return () => gone.abort();
  }, [run.run_id, run.status, address, after, version]);
  if (!page) return null;
  if (page.error) return html`<${Trouble} error=${page.error} />`;
  const stale = page.address !== address || page.after !== after;
  return html`
    <div class=${`card items-table ${stale ? "stale" : ""}`}>
      <table aria-busy=${stale ? "true" : null}>
        <thead><tr><th class="right">#</th><th>Status</th><th>Item</th><th>Output, or error</th><th class="right">Took</th><th class="right">Tokens</th><th class="right">Cost</th></tr></thead>
        <tbody onKeyDown=${rows.keys}>${page.rows.map((row, at) => html`<${Row} key=${row.id} row=${row} open=${row.id === node} stop=${rows.stop(at)} />`)}</tbody>
      </table>
      ${page.rows.length === 0 && html`<p class="none">${only === WORDS["."] && !find ? "Nothing is on record of items that have not begun." : find || only ? "No item is like that." : "No items yet."}</p>`}
    </div>
    <${Pager} page=${page} before=${before} onBack=${() => (go(before.at(-1)), setBefore(before.slice(0, -1)))} onOn=${() => (setBefore([...before, after]), go(page.cursor))} />
  `;
}

/** One page. A search goes on until it has a row, or all were looked at. */
async function pageOf(run, wanted, signal) {
  let asked = wanted;
  for (;;) {
    const found = await get(`${at(run)}/items?${asked}`, { signal });
    if (found.rows.length > 0 || !found.more) return found;
    asked = wanted.replace(/after=\d+$/, `after=${found.cursor}`);
  }
}

function Row({ row, open, stop }) {
  const to = withQuery({ node: row.id });
  const pressed = (event) => {
    if (event.target.closest("a") || getSelection().toString()) return;
    navigate(to);
  };
  const asked = row.status !== "running" && (row.model || row.tokens !== 0);
  return html`<tr onClick=${pressed} class=${open ? "open" : ""}>
    <td class="right index"><a ...${stop} href=${to} aria-current=${open ? "true" : null} aria-label=${`Open item ${row.index}`}>${row.index}</a></td>
    <td class="status">${statusIcon(row.status)} ${statusWord(row.status)}${row.cached ? html`<span class="muted"> cached</span>` : ""}</td>
    <td class="words">${row.item}</td>
    <td class=${`words ${row.error ? "failure-text" : ""}`}>${row.error ?? row.output}</td>
    <td class="right number figure">${duration(row.took_s)}</td>
    <td class="right number figure">${asked ? (row.tokens === null ? "unknown" : count(row.tokens)) : ""}</td>
    <td class="right number figure">${asked ? dollars(row.cost_usd) : ""}</td>
  </tr>`;
}

function Pager({ page, before, onBack, onOn }) {
  if (before.length === 0 && !page.more) return null;
  const first = page.after + 1;
  const last = page.total === null ? page.seen : page.after + page.rows.length;
  return html`<nav class="pager" aria-label="Pages of items">
    <button disabled=${before.length === 0} onClick=${onBack}>Previous</button>
    <span class="number" role="status">${page.total === null ? `looked through ${last.toLocaleString("en")}` : `${first.toLocaleString("en")} to ${last.toLocaleString("en")} of ${page.total.toLocaleString("en")}`}</span>
    <button disabled=${!page.more} onClick=${onOn}>Next</button>
  </nav>`;
}
