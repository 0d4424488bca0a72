// The bars of a run, read as it goes on: those at the top and those within what is opened.
import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "../api.mjs";
import { OFTEN, useThrottled } from "./refresh.mjs";

export const PAGE = 200;
const QUIET_LOOKED_AT = 5000;

/**
 * `{rows, attempts, ready, error, toggle(id), more(id), opened}`: rows as they stand below each other, `{bar, depth, name}` or
 * `{more: parent, depth}`; `attempts` are those at the run, `[[begin, end or null], …]`.
 */
export function useRows(run) {
  const [, drawn] = useState(0);
  const pages = useRef(new Map([["", blank()]])).current;
  const [error, setError] = useState(null);
  const base = `/api/runs/${encodeURIComponent(run.run_id)}/timeline`;

  const read = async (parent, { further = false } = {}) => {
    const page = pages.get(parent);
    if (!page) return;
    const query = new URLSearchParams({ parent, since: further ? 0 : page.changes });
    if (parent) query.set("limit", further ? PAGE : Math.max(PAGE, page.bars.size));
    if (further) query.set("after", Math.max(...[...page.bars.values()].map((bar) => bar.place)));
    try {
      const found = await get(`${base}?${query}`);
      for (const bar of found.bars) page.bars.set(bar.id, bar);
      for (const [id, bar] of page.bars) {
        const critical = found.critical_path.includes(id);
        if (bar.critical !== critical) page.bars.set(id, { ...bar, critical });
      }
      if (!further) page.changes = found.changes;
      page.attempts = found.run_attempts;
      page.more = found.more;
      page.read = true;
      setError(null);
    } catch (problem) {
      setError(problem);
    }
    drawn((number) => number + 1);
  };
  const [tick, again] = useState(0);
  const going = run.status === "running";
  useEffect(() => {
    if (!going) return undefined;
    const timer = setInterval(() => document.hidden || again((number) => number + 1), QUIET_LOOKED_AT); // what is quiet changes nothing
    return () => clearInterval(timer);
  }, [going]);
  useThrottled(() => Promise.all([...pages.keys()].map((parent) => read(parent))), OFTEN, [run.run_id, run.changes, run.status, tick]);

  const toggle = (id) => {
    if (pages.has(id)) {
      for (const one of [...pages.keys()]) if (one === id || one.startsWith(`${id}.`) || one.startsWith(`${id}[`)) pages.delete(one);
      drawn((number) => number + 1);
    } else {
      pages.set(id, blank());
      read(id);
    }
  };
  const { attempts, read: ready } = pages.get("");
  return { rows: rowsOf(pages), attempts, ready, error, toggle, more: (id) => read(id, { further: true }), opened: new Set(pages.keys()) };
}

function blank() {
  return { bars: new Map(), changes: 0, more: false, read: false, attempts: [] };
}

function rowsOf(pages, parent = "", depth = 0) {
  const page = pages.get(parent);
  const found = [];
  for (const bar of sorted([...page.bars.values()])) {
    found.push({ bar, depth, name: parent ? bar.id.slice(parent.length).replace(/^\./, "") : bar.id });
    if (pages.has(bar.id)) found.push(...rowsOf(pages, bar.id, depth + 1));
  }
  if (page.more) found.push({ more: parent, depth });
  return found;
}

/** As they began; what has not begun keeps its order, at the end; items by their places. */
function sorted(bars) {
  if (bars.some((bar) => bar.place !== null)) return bars.sort((one, other) => one.place - other.place);
  return bars.sort((one, other) => (one.started_at ?? Infinity) - (other.started_at ?? Infinity) || 0);
}
