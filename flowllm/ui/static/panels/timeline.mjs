// The timeline of a run: a bar for each node, waiting apart from calling, attempts at their true times.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { count, duration, roughly, statusIcon, visible } from "../format.mjs";
import { html } from "../html.mjs";
import { Trouble } from "../parts.mjs";
import { Bar, Legend, Patterns, summary, Told } from "./timeline_bar.mjs";
import { useRows } from "./timeline_data.mjs";
import { Overview } from "./timeline_overview.mjs";
import { kept, panned, squeezed, stepOf, ticks, tickText, zoomed } from "./timeline_scale.mjs";

const STEP = 1.5;
const AHEAD = 1.03;
const GAP = 84; // px between attempts at the run

export function Timeline({ run, onOpen }) {
  const data = useRows(run);
  const now = useNow(run, data.rows);
  const [frozen, setFrozen] = useState(null);
  const live = { rows: data.rows, attempts: data.attempts, now, changes: run.changes, status: run.status };
  if (data.error && !data.ready) return html`<${Trouble} error=${data.error} />`;
  if (!data.ready) return html`<p class="muted" role="status">Reading the timeline …</p>`;
  const freeze = () => setFrozen((before) => (before ? null : live));
  return html`<${Chart} ...${{ ...data, ...(frozen ?? live), held: frozen && run.changes - frozen.changes, freeze, onOpen }} />`;
}

/** Wall clock seconds, moving on while the run does: the server is on this machine. */
function useNow(run, rows) {
  const [now, set] = useState(() => Date.now() / 1000);
  const going = run.status === "running";
  useEffect(() => {
    if (!going) return undefined;
    const timer = setInterval(() => set(Date.now() / 1000), 250);
    return () => clearInterval(timer);
  }, [going]);
  if (going) return now;
  return Math.max(run.finished_at ?? run.started_at, ...rows.map(({ bar }) => bar?.finished_at ?? bar?.started_at ?? 0));
}

function Chart({ rows, attempts, now, status, held, freeze, opened, toggle, more, onOpen }) {
  const list = useRef(null);
  const { width, label, height, seen } = useSizes(list, rows.length);
  const time = squeezed(attempts.map(([begin, end]) => [begin, end ?? now]), GAP / width);
  const [begin, end] = [time.parts[0][0], Math.max(time.parts.at(-1)[1], time.to(now))];
  const bounds = [begin, begin + Math.max(0.05, end - begin) * (status === "running" ? AHEAD : 1)];
  const view = useSpan(bounds);
  const [at, setAt] = useState(null);
  const [hover, setHover] = useState(null);
  const placed = (drawn) => ((drawn - view.span[0]) / (view.span[1] - view.span[0])) * width;
  const x = (moment) => placed(time.to(moment));
  const place = Math.max(0, rows.findIndex((row) => idOf(row) === at));
  const current = rows[place];
  const middle = () => {
    const bar = at !== null && current?.bar;
    return bar?.started_at ? Math.min(1, Math.max(0, x((bar.started_at + (bar.finished_at ?? now)) / 2) / width)) : 0.5;
  };
  const zoom = (by, share = middle()) => view.zoom(by, share);
  useWheel(list, { label, zoom, pan: view.pan });
  const openRow = (row) => (row.more !== undefined ? more(row.more) : onOpen(row.bar.id));
  const walk = (to) => {
    const next = Math.min(rows.length - 1, Math.max(0, to));
    setAt(idOf(rows[next]));
    if (rows[next].bar?.started_at) view.show(time.to(rows[next].bar.started_at));
    reveal(list.current, next, height);
  };
  const unfold = (open) => {
    if (current?.bar && (current.bar.foreach || current.bar.inner) && opened.has(current.bar.id) !== open) toggle(current.bar.id);
    else if (!open && current?.depth) walk(rows.slice(0, place).findLastIndex((row) => row.depth < current.depth));
  };
  const key = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = (event.shiftKey && event.key.startsWith("Arrow") ? { ArrowLeft: () => view.pan(-0.2), ArrowRight: () => view.pan(0.2) } : {
      ArrowDown: () => walk(place + 1), ArrowUp: () => walk(place - 1), PageDown: () => walk(place + 10), PageUp: () => walk(place - 10),
      Home: () => walk(0), End: () => walk(rows.length - 1), ArrowRight: () => unfold(true), ArrowLeft: () => unfold(false),
      Enter: () => current && openRow(current), "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: view.all, f: freeze, F: freeze,
    })[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  };
  const told = rows.find((row) => idOf(row) === (hover ?? at))?.bar;
  const marks = marksOf(time.parts, view.span, width).map((mark) => ({ ...mark, left: placed(mark.at) }));
  const gaps = time.gaps.map((gap) => ({ left: placed(gap.begin), wide: placed(gap.end) - placed(gap.begin), text: roughly(gap.seconds) }));
  const name = `Timeline of ${count(rows.length)} nodes${gaps.length ? `, in ${attempts.length} attempts at the run` : ""}`;
  return html`<div class=${`timeline ${rows.some(({ bar }) => bar?.foreach || bar?.inner) ? "" : "flat"}`}>
    <${Patterns} />
    <${Tools} ...${{ rows, freeze: status === "running" || held !== null ? freeze : null, held, zoom, view }} />
    <${Overview} ...${{ rows, time, bounds, view, now }} />
    <${Axis} ...${{ marks, gaps, width }} />
    <div class="line-rows" ref=${list} role="tree" tabindex="0" aria-label=${name} aria-activedescendant=${current ? domId(current) : null} onKeyDown=${key} onMouseLeave=${() => setHover(null)}>
      <div style=${{ height: `${rows.length * height}px` }} role="presentation"></div>
      <${Grid} ...${{ marks, gaps, height: rows.length * height, now: status === "running" ? x(now) : null }} />
      ${rows.slice(seen.first, seen.last).map((row, number) => html`<${Row} key=${idOf(row)} ...${{ row, top: (seen.first + number) * height, height, x, width, now, current: at !== null && row === current, opened, toggle, openRow, setAt, setHover, place: seen.first + number, of: rows.length }} />`)}
    </div>
    <${Told} bar=${told} now=${now} attempts=${attempts} />
  </div>`;
}

/** Which part of the time is seen: all of it, until somebody chooses one. */
function useSpan(bounds) {
  const [chosen, choose] = useState(null);
  const zoom = (by, share) =>
    choose((before) => {
      const next = zoomed(before ?? bounds, by, share, bounds);
      return by < 1 && near(next, bounds) ? null : next;
    });
  const pan = (share) => choose((before) => before && panned(before, share, bounds));
  const show = (moment) => choose((before) => before && showing(before, moment, bounds));
  return { span: chosen ? kept(chosen, bounds) : bounds, chosen, choose, zoom, pan, show, all: () => choose(null) };
}

function Tools({ rows, freeze, held, zoom, view }) {
  return html`<div class="line-tools">
    <${Legend} rows=${rows} />
    <div class="buttons">
      ${freeze && html`<button class=${held === null ? "quiet" : "frozen"} aria-pressed=${held !== null} title="The run goes on behind it (F)" onClick=${freeze}>${held === null ? "Freeze" : `Frozen: ${count(held)} ${held === 1 ? "change" : "changes"} held back`}</button>`}
      <button class="quiet" aria-label="Zoom out" title="Zoom out (−)" onClick=${() => zoom(1 / STEP)}>−</button><button class="quiet" aria-label="Zoom in" title="Zoom in (+, or Ctrl and the wheel)" onClick=${() => zoom(STEP)}>+</button><button class="quiet" title="Show all of it (0)" disabled=${!view.chosen} onClick=${view.all}>Fit</button>
    </div>
  </div>`;
}

function Axis({ marks, gaps, width }) {
  return html`<div class="line-axis" aria-hidden="true">
    ${marks.filter(({ left }) => left < width - 16).map(({ at, left, text }) => html`<span key=${at} class=${left < 8 ? "first" : ""} style=${{ left: `${left}px` }}>${text}</span>`)}
    ${gaps.filter((gap) => gap.wide >= 36).map((gap) => html`<span key=${gap.left} class="stopped" title="Between two attempts at the run nothing went on" style=${{ left: `${gap.left + gap.wide / 2}px` }}>${gap.wide >= GAP - 4 ? "stopped " : ""}${gap.text}</span>`)}
  </div>`;
}

function Grid({ marks, gaps, height, now }) {
  return html`<svg class="line-grid" width="100%" height=${height} aria-hidden="true">
    ${gaps.map((gap) => html`<rect key=${gap.left} class="gap" x=${gap.left} y="0" width=${Math.max(2, gap.wide)} height="100%" />`)}
    <path d=${marks.map(({ left }) => `M${left.toFixed(1)} 0V${height}`).join("")} />
    ${now !== null && html`<path class="now" d=${`M${now.toFixed(1)} 0V${height}`} />`}
  </svg>`;
}

/** Ticks, counted from the beginning of each attempt at the run. */
function marksOf(parts, span, width) {
  const step = stepOf(span[1] - span[0], width);
  return parts.flatMap(([begin, end], number) => {
    const within = [Math.max(begin, span[0]) - begin, Math.min(number === parts.length - 1 ? Infinity : end, span[1]) - begin];
    return ticks(...within, step).map((mark) => ({ at: begin + mark, text: tickText(mark, step) }));
  });
}

function Row({ row, top, height, x, width, now, current, opened, toggle, openRow, setAt, setHover, place, of }) {
  const style = { transform: `translateY(${top}px)`, top: 0, height: `${height}px` };
  const common = { id: domId(row), role: "treeitem", "aria-level": row.depth + 1, "aria-selected": String(current), "aria-posinset": place + 1, "aria-setsize": of, style };
  const click = () => {
    setAt(idOf(row));
    openRow(row);
  };
  if (row.more !== undefined) return html`<div class=${`line-row ${current ? "at" : ""}`} ...${common} onClick=${click}><span class="line-more">Show the next items of ${visible(row.more)}</span></div>`;
  const { bar, depth, name } = row;
  const within = bar.foreach || bar.inner;
  const ended = Object.entries(bar.counts).reduce((sum, [status, number]) => (status === "running" || status === "waiting" ? sum : sum + number), 0);
  const unfold = (event) => {
    event.stopPropagation();
    setAt(bar.id);
    toggle(bar.id);
  };
  return html`<div class=${`line-row ${bar.critical ? "critical" : ""} ${bar.started_at === null ? "pending" : ""} ${current ? "at" : ""}`} ...${common} aria-expanded=${within ? String(opened.has(bar.id)) : null} aria-label=${visible(summary(bar, now))} onClick=${click} onMouseEnter=${() => setHover(bar.id)}>
    <span class="line-label" style=${{ paddingLeft: `${4 + depth * 14}px` }}>
      <span class=${`line-open ${within ? "" : "none"} ${opened.has(bar.id) ? "opened" : ""}`} onClick=${within ? unfold : null} aria-hidden="true"><svg width="12" height="12" viewBox="0 0 12 12"><path d="m4 2 4 4-4 4" fill="none" stroke="currentColor" stroke-width="1.6" /></svg></span>
      ${statusIcon(bar.status)}<span class="name" title=${visible(bar.id)}>${visible(name)}</span>
      ${bar.foreach && html`<span class="of">${count(ended)}</span>`}
    </span>
    <span class="line-bars"><${Bar} ...${{ bar, x, width, height, now }} />${bar.quiet && html`<span class="line-quiet" title=${bar.quiet}>quiet ${duration(now - (bar.attempts.at(-1)?.started_at ?? bar.started_at))}</span>`}</span>
  </div>`;
}

function idOf(row) {
  return row.more === undefined ? row.bar.id : `${row.more}…`;
}

function domId(row) {
  return `line-${idOf(row).replace(/[^\w.-]/g, "_")}`;
}

/** The window, moved where a moment is not within it. */
function showing(span, moment, bounds) {
  if (moment >= span[0] && moment <= span[1]) return span;
  return panned(span, (moment - span[0]) / (span[1] - span[0]) - 0.1, bounds);
}

function near(one, other) {
  return Math.abs(one[0] - other[0]) + Math.abs(one[1] - other[1]) < 1e-3;
}

function reveal(list, place, height) {
  const [top, bottom] = [place * height, (place + 1) * height];
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

/** The sizes of what is drawn, and which rows are seen. */
function useSizes(list, rows) {
  const [sizes, set] = useState({ width: 400, label: 176, height: 28, top: 0, room: 520 });
  useLayoutEffect(() => {
    const measure = () => {
      const style = getComputedStyle(list.current);
      const label = parseFloat(style.getPropertyValue("--label"));
      const height = matchMedia("(max-width: 640px)").matches ? 36 : 28;
      set({ width: Math.max(40, list.current.clientWidth - label - 8), label, height, top: list.current.scrollTop, room: list.current.clientHeight });
    };
    measure();
    const seen = new ResizeObserver(measure);
    seen.observe(list.current);
    list.current.addEventListener("scroll", measure, { passive: true });
    return () => seen.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(sizes.top / sizes.height) - 6);
  return { ...sizes, seen: { first, last: Math.min(rows, first + Math.ceil(sizes.room / sizes.height) + 12) } };
}

/** Ctrl and the wheel zoom about the pointer, a wheel to the side moves. */
function useWheel(list, actions) {
  const now = useRef(actions);
  now.current = actions;
  useEffect(() => {
    const wheel = (event) => {
      const { left, width } = list.current.getBoundingClientRect();
      const { label, zoom, pan } = now.current;
      if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 300), Math.min(1, Math.max(0, (event.clientX - left - label) / (width - label))));
      else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(event.deltaX / 1000);
      else return;
      event.preventDefault();
    };
    list.current.addEventListener("wheel", wheel, { passive: false });
  }, []);
}
