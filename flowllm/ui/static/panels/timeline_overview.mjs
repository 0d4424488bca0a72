// All of a run in small, by how much went on at a time; a part of it is chosen by dragging over it.
import { useRef } from "preact/hooks";
import { html } from "../html.mjs";

const BINS = 160;

/** How many items of a foreach were open at a time, of which one was in that attempt at the run; null for other nodes. */
function openItems(bar) {
  if (!bar.foreach || !bar.activity.length) return null;
  const of = bar.activity.map(opened);
  return (time) => of[Math.max(0, bar.activity.findLastIndex(({ begin }) => begin <= time))](time);
}

function opened(activity) {
  let open = 0;
  const counts = activity.started.map((number, span) => {
    const most = open + number;
    open = most - activity.succeeded[span] - activity.failed[span] - activity.others[span];
    return most;
  });
  return (time) => counts[Math.min(counts.length - 1, Math.max(0, Math.floor((time - activity.begin) / activity.width)))];
}

export function Overview({ rows, time: { to, from }, bounds, view: { span, chosen, choose, all }, now }) {
  const held = useRef(null);
  const share = (event) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - left) / width));
  };
  const time = (at) => bounds[0] + (bounds[1] - bounds[0]) * at;
  const down = (event) => {
    event.currentTarget.setPointerCapture(event.pointerId);
    held.current = share(event);
  };
  const move = (event) => {
    if (held.current === null) return;
    const [one, other] = [held.current, share(event)].sort((a, b) => a - b);
    if (other - one > 0.005) choose([time(one), time(other)]);
  };
  const mass = new Array(BINS).fill(0);
  const bin = (at) => Math.min(BINS - 1, Math.max(0, Math.floor(((at - bounds[0]) / (bounds[1] - bounds[0])) * BINS)));
  for (const { bar, depth } of rows) {
    if (!bar || depth || bar.started_at === null) continue;
    const open = openItems(bar);
    const spans = open ? bar.activity.map((one) => [one.begin, one.begin + one.width * one.started.length]) : [[bar.started_at, bar.finished_at ?? now]];
    for (const [begin, end] of spans) for (let at = bin(to(begin)); at <= bin(to(end)); at += 1) mass[at] += open ? open(from(time((at + 0.5) / BINS))) : 1;
  }
  const most = Math.max(1, ...mass);
  const path = mass.map((number, at) => `V${(30 - (number / most) * 26).toFixed(1)}H${at + 1}`).join("");
  const [left, right] = span.map((at) => ((at - bounds[0]) / (bounds[1] - bounds[0])) * BINS);
  return html`<div class="line-overview" title="Drag to choose a part; double click for all" onPointerDown=${down} onPointerMove=${move} onPointerUp=${() => (held.current = null)} onDblClick=${all}>
    <svg viewBox=${`0 0 ${BINS} 32`} preserveAspectRatio="none" aria-hidden="true">
      <path class="mass" d=${`M0 30${path}V30z`} />
      ${chosen && html`<rect class="outside" x="0" y="0" width=${left} height="32" /><rect class="outside" x=${right} y="0" width=${Math.max(0, BINS - right)} height="32" /><rect class="window" x=${left} y="0.5" width=${Math.max(1, right - left)} height="31" vector-effect="non-scaling-stroke" />`}
    </svg>
  </div>`;
}
