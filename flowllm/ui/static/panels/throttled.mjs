// "Am I throttled?": the answer in a sentence, and how each account stood in the last minutes.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { get } from "../api.mjs";
import { count, visible } from "../format.mjs";
import { html } from "../html.mjs";
import { Trouble } from "../parts.mjs";
import { drawnAs, reasonWord } from "./timeline_scale.mjs";
import { useThrottled } from "./refresh.mjs";

const EVERY = 1000;
const GAP = 3; // points
const FAR = 4;

export function Throttled({ run }) {
  const [{ found, error }, set] = useState({ found: null, error: null });
  const [tick, again] = useState(0);
  const going = run.status === "running";
  useEffect(() => {
    if (!going) return undefined;
    const timer = setInterval(() => document.hidden || again((number) => number + 1), EVERY);
    return () => clearInterval(timer);
  }, [going]);
  useThrottled(
    async () => {
      try {
        set({ found: await get(`/api/runs/${encodeURIComponent(run.run_id)}/gauges`), error: null });
      } catch (problem) {
        set((before) => ({ ...before, error: problem }));
      }
    },
    EVERY,
    [tick, run.run_id, going],
  );
  if (error && !found) return html`<${Trouble} error=${error} />`;
  if (!found) return html`<p class="muted" role="status">Reading the limits …</p>`;
  return html`<div class="throttled">
    <${Answer} answer=${found.answer} over=${run.status !== "running"} />
    ${found.accounts.length === 0 && html`<p class="muted">How accounts stand is noted every second while a run goes on, and kept for a week: there is nothing of this run.</p>`}
    ${found.accounts.map((account) => html`<${Account} key=${account.account} ...${{ account, going, every: found.every }} />`)}
  </div>`;
}

function Answer({ answer, over }) {
  const [word, rest] = [answer.text.split(":")[0], answer.text.slice(answer.text.indexOf(":") + 1).trim()];
  const sign = answer.throttled ? html`<path d="M8 1.5 15 14H1z" /><path class="mark" d="M8 6v4m0 1.6v.6" />` : html`<circle cx="8" cy="8" r="7" /><path class="mark" d="M4.8 8.3 7.1 10.6 11.3 5.9" />`;
  return html`<p class=${`answer tone-${answer.throttled ? "waiting" : "succeeded"}`} role="status">
    <svg class="status-icon" viewBox="0 0 16 16" width="24" height="24" aria-hidden="true">${sign}</svg>
    <span><strong>${word}${over ? `, it was${answer.throttled ? "" : " not"}` : ""}.</strong> ${visible(rest.charAt(0).toUpperCase() + rest.slice(1))}</span>
  </p>`;
}

function Account({ account, every, going }) {
  const { series } = account;
  const at = useMemo(() => spaced(series, every), [series, every]);
  const pauses = pausesOf(series);
  const refusals = series.at.filter((_, point) => series.refused[point] > (series.refused[point - 1] ?? 0));
  const reasons = Object.keys(series.waits);
  const waits = alike(series.waits);
  const stacked = stack(waits.map(({ counts }) => counts));
  const last = series.at.length - 1;
  return html`<section class="card account">
    <h2>${visible(account.name)}</h2>
    <div class="charts">
      <${Chart} title="In flight and waiting" at=${at} pauses=${pauses} marks=${[]} lines=${[
        ...waits.map(({ drawn, label }, number) => ({ label: `waiting for ${label}`, values: stacked[number], colour: `--wait-${drawn}`, fill: true })).reverse(),
        { label: "in flight", values: series.in_flight, colour: "--running", width: 2 },
        { label: "slots", values: series.max_concurrent.map((most) => most || null), colour: "--muted", dash: [5, 4] },
      ]} note=${`${count(series.in_flight[last])} in flight, ${count(series.waiting[last])} waiting`} />
      <${Chart} title="Requests a minute" at=${at} pauses=${pauses} marks=${refusals} lines=${[
        { label: "sent in the last minute", values: series.requests, colour: "--running", width: 2, soft: true },
        { label: "limit", values: series.requests_limit, colour: "--failed", dash: [5, 4] },
      ]} note=${`${ofLimit(series.requests[last], series.requests_limit[last])}; ${count(series.refused[last])} got a 429`} />
      <${Chart} title="Tokens a minute" at=${at} pauses=${pauses} marks=${[]} lines=${[
        { label: "used in the last minute", values: series.tokens, colour: "--succeeded", width: 2, soft: true },
        { label: "limit", values: series.tokens_limit, colour: "--failed", dash: [5, 4] },
      ]} note=${ofLimit(series.tokens[last], series.tokens_limit[last])} />
    </div>
    ${going && html`<${Queue} queue=${account.queue} />`}
    <${AsTable} series=${series} reasons=${reasons} />
  </section>`;
}

function ofLimit(value, limit) {
  return count(value) + (limit === null ? ", no limit" : ` of ${count(Math.round(limit))}`);
}

const PRIORITIES = ["high", "normal", "low"];

/** What waits at the last point, by reason and priority. */
function Queue({ queue }) {
  const reasons = Object.entries(queue);
  if (!reasons.length) return null;
  return html`<section class="queue">
    <h3>Waiting now</h3>
    <table>
      <thead><tr><th scope="col">for</th>${PRIORITIES.map((name) => html`<th scope="col" class="right" key=${name}>${name} priority</th>`)}</tr></thead>
      <tbody>${reasons.map(([reason, counts]) => html`<tr key=${reason}><th scope="row"><i class=${`key why-${drawnAs(reason)}`}></i>${reasonWord(reason)}</th>${PRIORITIES.map((name) => html`<td class="right number" key=${name}>${count(counts[name] ?? 0)}</td>`)}</tr>`)}</tbody>
    </table>
  </section>`;
}

/** With a hole where nothing was noted. */
function spaced(series, every) {
  const places = [];
  series.at.forEach((at, point) => {
    if (point && at - series.at[point - 1] > GAP * every) places.push([series.at[point - 1] + every, null]);
    places.push([at, point]);
  });
  return places;
}

/** Spans in which the server's pause went on. */
function pausesOf(series) {
  const found = [];
  series.at.forEach((at, point) => {
    const end = at + series.pause_s[point];
    if (series.pause_s[point] <= 0) return;
    if (found.length && at <= found.at(-1)[1] + 1) found.at(-1)[1] = Math.max(found.at(-1)[1], end);
    else found.push([at, end]);
  });
  return found;
}

/** Waits by how they are drawn, `[{drawn, label, counts}, …]`: those of one colour together. */
function alike(waits) {
  const found = new Map();
  for (const [reason, counts] of Object.entries(waits)) {
    const drawn = drawnAs(reason);
    const known = found.get(drawn);
    found.set(drawn, { drawn, label: known ? `${known.label}, ${reasonWord(reason)}` : reasonWord(reason), counts: known ? known.counts.map((count, at) => count + counts[at]) : counts });
  }
  return [...found.values()];
}

/** Each list on top of those before it. */
function stack(lists) {
  const sums = [];
  return lists.map((list) => list.map((value, at) => (sums[at] = (sums[at] ?? 0) + value)));
}

function Chart({ title, at, lines, pauses, marks, note }) {
  const place = useRef(null);
  const plot = useRef(null);
  const [theme, themed] = useState(0);
  const now = useRef(null);
  now.current = { pauses, marks };
  lines = lines.filter((line) => !line.dash || line.values.some((value) => value !== null));
  const data = [at.map(([time]) => time), ...lines.map((line) => at.map(([, point]) => (point === null ? null : line.values[point])))];
  const kind = lines.map((line) => line.label).join("|");
  useEffect(() => {
    const change = () => themed((number) => number + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", change);
    dark.addEventListener("change", change);
    return () => {
      removeEventListener("themechange", change);
      dark.removeEventListener("change", change);
    };
  }, []);
  useEffect(() => {
    plot.current = new uPlot(options(place.current, lines, now), data, place.current);
    const seen = new ResizeObserver(([{ target }]) => target.isConnected && plot.current.setSize({ width: target.clientWidth, height: 150 }));
    seen.observe(place.current);
    return () => {
      seen.disconnect();
      plot.current.destroy();
    };
  }, [kind, theme]);
  useEffect(() => plot.current.setData(data), [at]);
  return html`<figure class="chart">
    <figcaption><h3>${title}</h3><span class="muted number">${note}</span></figcaption>
    <div ref=${place} role="img" aria-label=${`${title}: ${note}. The numbers are in the table below.`}></div>
    <p class="legend" aria-hidden="true">${lines.map((line) => html`<span key=${line.label}><i class=${line.fill ? "area" : line.dash ? "dashes" : "stroke"} style=${{ "--c": `var(${line.colour})` }}></i> ${line.label}</span>`)}${marks.length > 0 && html`<span><i class="refused"></i> 429</span>`}${pauses.length > 0 && html`<span><i class="pause"></i> server's pause</span>`}</p>
  </figure>`;
}

function options(place, lines, now) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name, share = 1) => mixed(style.getPropertyValue(name).trim(), share);
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return {
    width: place.clientWidth,
    height: 150,
    padding: [8, 22, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: "gauges" }, points: { size: 6 }, y: false, drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: (plot) => [0, Math.max(1, highest(plot, lines)) * 1.08] } },
    axes: [{ ...axis, size: 24, space: 70, values: (_, times) => times.map((time) => clock(time).slice(0, times[1] - times[0] < 60 ? 8 : 5)) }, { ...axis, size: 48, space: 28, values: (_, values) => values.map((value) => count(value)) }],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: line.width ?? 1.5,
        dash: line.dash,
        fill: line.fill ? colour(line.colour, 0.45) : line.soft ? colour(line.colour, 0.12) : undefined,
        points: { show: false },
        spanGaps: false,
      })),
    ],
    hooks: { drawClear: [(plot) => bands(plot, now.current.pauses, colour("--wait-pause", 0.22))], draw: [(plot) => signs(plot, now.current.marks, colour("--failed"))] },
  };
}

/** The largest value; where a limit is far above all of them it is left out of sight, its number stands above the chart. */
function highest(plot, lines) {
  const most = (dashed, below) => Math.max(0, ...plot.data.slice(1).filter((_, at) => Boolean(lines[at].dash) === dashed).map((values) => values.reduce((one, other) => (other > below ? one : Math.max(one, other ?? 0)), 0)));
  const values = most(false, Infinity);
  return Math.max(values, most(true, FAR * Math.max(1, values)));
}

/** `#rrggbb` with a share of opacity. */
function mixed(hex, share) {
  return share === 1 ? hex : `${hex}${Math.round(share * 255).toString(16).padStart(2, "0")}`;
}

function bands(plot, spans, fill) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = fill;
  for (const [begin, end] of spans) {
    const [left, right] = [begin, end].map((at) => Math.min(bbox.left + bbox.width, Math.max(bbox.left, plot.valToPos(at, "x", true))));
    if (right > left) ctx.fillRect(left, bbox.top, right - left, bbox.height);
  }
  ctx.restore();
}

/** A triangle at the top for each second that brought a 429. */
function signs(plot, times, fill) {
  const { ctx, bbox } = plot;
  const size = 5 * devicePixelRatio;
  ctx.save();
  ctx.fillStyle = fill;
  for (const at of times) {
    const x = plot.valToPos(at, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x - size, bbox.top);
    ctx.lineTo(x + size, bbox.top);
    ctx.lineTo(x, bbox.top + size * 1.5);
    ctx.fill();
  }
  ctx.restore();
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString(undefined, { hour12: false });
}

const ROWS = 60;

function AsTable({ series, reasons }) {
  const [open, set] = useState(false);
  const points = series.at.map((_, point) => point).slice(-ROWS).reverse();
  return html`<details class="as-table" onToggle=${(event) => set(event.currentTarget.open)}>
    <summary>As a table: the last ${Math.min(ROWS, series.at.length)} points</summary>
    ${open && html`<div class="scroll" tabindex="0" role="region" aria-label="Numbers of the last points"><table>
      <thead><tr><th scope="col">Time</th>${["In flight", "Slots", "Waiting", ...reasons.map((reason) => `for ${reasonWord(reason)}`), "Requests/min", "Limit", "Tokens/min", "Limit", "429s/min", "Pause left"].map((name, at) => html`<th scope="col" class="right" key=${at}>${name}</th>`)}</tr></thead>
      <tbody>${points.map((point) => html`<tr key=${series.at[point]}><th scope="row">${clock(series.at[point])}</th>${[series.in_flight[point], series.max_concurrent[point] || null, series.waiting[point], ...reasons.map((reason) => series.waits[reason][point]), series.requests[point], series.requests_limit[point], series.tokens[point], series.tokens_limit[point], series.refused[point]].map((value, at) => html`<td class="right number" key=${at}>${value === null ? "–" : Math.round(value).toLocaleString("en")}</td>`)}<td class="right number">${series.pause_s[point] ? `${series.pause_s[point].toFixed(1)} s` : "–"}</td></tr>`)}</tbody>
    </table></div>`}
  </details>`;
}
