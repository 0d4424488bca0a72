// How one node is drawn over time, and what is said of it.
import { count, duration, statusTone, statusWord, visible } from "../format.mjs";
import { html } from "../html.mjs";
import { area, calling, drawnAs, reasonWord, topOf, WAIT_WORDS } from "./timeline_scale.mjs";

const MIDDLE = 14;

/** `x` gives the place in px of a time; `width` is that of the whole, `height` that of a row. */
export function Bar({ bar, x, width, height, now }) {
  if (bar.started_at === null) return null;
  const end = bar.finished_at ?? now;
  const [left, right] = [x(bar.started_at), x(end)];
  if (Math.min(left, ...bar.attempts.map((one) => x(one.started_at)), ...bar.activity.map((one) => x(one.begin))) > width + 1 || right < -1) return null;
  const shift = (height - 2 * MIDDLE) / 2;
  return html`<svg class=${`tone-${statusTone(bar.status)}`} width="100%" height=${height} aria-hidden="true">
    <g transform=${`translate(0 ${shift})`}>
      ${bar.foreach ? html`<${Items} ...${{ bar, x, left, right }} />` : html`${bar.activity.map((one) => frameOf(x(one.begin), x(one.begin + one.width * one.started.length)))}<${Attempts} ...${{ bar, x, left, right, now }} />`}
      ${bar.critical && html`<rect class="critical-mark" x=${left} y="24" width=${Math.max(2, right - left)} height="2" rx="1" />`}
    </g>
  </svg>`;
}

/** A frame for each attempt at the run, in it how many items ended in each span. */
function Items({ bar, x, left, right }) {
  if (!bar.activity.length) return frameOf(left, right);
  return bar.activity.map((activity, at) => {
    const spans = activity.started.length;
    const begin = x(activity.begin);
    const each = Math.max(2, x(activity.begin + spans * activity.width) - begin) / spans;
    const ended = activity.succeeded.map((number, span) => number + activity.failed[span] + activity.others[span]);
    const largest = topOf(ended);
    return html`${frameOf(begin, at === bar.activity.length - 1 ? right : begin + each * spans)}<path class="items-ended" d=${area(ended, largest, each, begin, 22, 17)} /><path class="items-failed" d=${area(activity.failed, largest, each, begin, 22, 17)} />`;
  });
}

function frameOf(left, right) {
  return html`<rect class="items-frame" x=${left} y="4" width=${Math.max(2, right - left)} height="18" rx="2" />`;
}

function Attempts({ bar, x, left, right, now }) {
  const lanes = bar.attempts.some((attempt) => attempt.hedge);
  const waits = bar.finished_at === null && !bar.attempts.some((attempt) => attempt.finished_at === null); // on, since it was read
  const computed = bar.attempts.length === 0 && !bar.cached && bar.status !== "running";
  return html`
    ${!computed && !bar.cached && html`<path class="base" d=${`M${left} ${MIDDLE}H${Math.max(right, left + 2)}`} />`}
    ${bar.segments.map(([reason, begin, end], number) => {
      const until = waits && number === bar.segments.length - 1 ? now : end;
      const look = reason ? { fill: `url(#wait-${drawnAs(reason)})` } : { class: "no-reason" };
      return html`<rect key=${number} ...${look} x=${x(begin)} y="9" width=${Math.max(1, x(until) - x(begin))} height="10" />`;
    })}
    ${bar.cached && html`<rect class="cached" x=${left} y="6" width=${Math.max(3, right - left)} height="16" rx="2" />`}
    ${computed && html`<rect class="computed" x=${left} y="8" width=${Math.max(3, right - left)} height="12" rx="2" />`}
    ${bar.attempts.map((attempt) => html`<${Attempt} key=${`${attempt.number}@${attempt.started_at}`} ...${{ attempt, x, lanes, now }} />`)}
  `;
}

function Attempt({ attempt, x, lanes, now }) {
  const [left, right] = [x(attempt.started_at), x(attempt.finished_at ?? now)];
  const wide = Math.max(2, right - left);
  const [y, height] = lanes ? [attempt.hedge ? 15 : 5, 8] : [6, 16];
  const limited = attempt.error_type === "RateLimited";
  const failed = attempt.status === "failed" || attempt.status === "unknown";
  const gone = attempt.error_type === "Abandoned";
  const names = ["attempt", attempt.status];
  if (gone) names.push("abandoned");
  else names.push(`tone-${failed ? "failed" : "succeeded"}`);
  if (attempt.hedge) names.push("hedge");
  const middle = y + height / 2;
  const cross = Math.max(left + 5, right - 6);
  return html`<rect class=${names.join(" ")} x=${left} y=${y} width=${wide} height=${height} rx=${Math.min(2, wide / 2)} />
    ${limited && wide > 22 && !lanes && html`<text class="limit" x=${left + 3} y="17.5">429</text>`}
    ${failed && !gone && wide > 9 && !(limited && wide > 22) && html`<path class="cross" d=${`m${cross - 2.5} ${middle - 2.5} 5 5m0 -5 -5 5`} />`}`;
}

/** The patterns that waits are filled with: by reason a colour and a direction. */
export function Patterns() {
  const lines = { rate: "M0 6 6 0", tokens: "M0 0 6 6", slot: "M3 0V6", pause: "M0 3H6", backoff: "M0 6 6 0M0 0 6 6", budget: "M1.5 0V6M4.5 0V6", equal: "M0 1.5H6M0 4.5H6", lookup: "M2 2h2v2h-2z", commit: "M0 2H3M3 5H6", other: "M2 3h2" };
  return html`<svg class="unseen" width="0" height="0" aria-hidden="true"><defs>
    ${Object.entries(lines).map(([name, line]) => html`<pattern key=${name} id=${`wait-${name}`} class=${`pattern why-${name}`} width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" /><path d=${line} /></pattern>`)}
  </defs></svg>`;
}

export function Legend({ rows }) {
  const bars = rows.filter((row) => row.bar).map((row) => row.bar);
  const reasons = new Set(bars.flatMap((bar) => bar.segments.map(([reason]) => (reason ? drawnAs(reason) : ""))));
  const has = (test) => bars.some(test);
  const mark = (look, text) => html`<span key=${text}><svg width="16" height="10" aria-hidden="true">${look}</svg> ${text}</span>`;
  return html`<p class="legend line-legend line-bars-keys">
    ${has((bar) => bar.attempts.length) && mark(html`<rect class="tone-succeeded" style="fill: var(--tone)" width="16" height="10" rx="2" />`, "calling")}
    ${has((bar) => bar.attempts.some((one) => one.status === "sent")) && mark(html`<rect style="fill: var(--running)" width="16" height="10" rx="2" />`, "on its way")}
    ${has((bar) => bar.attempts.some((one) => one.status === "failed" || one.status === "unknown")) && mark(html`<rect class="tone-failed" style="fill: var(--tone)" width="16" height="10" rx="2" /><path d="m6 3 4 4m0-4-4 4" style="stroke: var(--surface); stroke-width: 1.5" />`, "failed")}
    ${has((bar) => bar.attempts.some((one) => one.hedge)) && mark(html`<rect x="0.5" y="0.5" width="15" height="9" rx="2" style="fill: none; stroke: var(--text); stroke-dasharray: 2 1.5" />`, "hedge")}
    ${has((bar) => bar.foreach && bar.started_at !== null) && mark(html`<path d="M0 10V6H3V2H6V7H9V4H13V8H16V10z" style="fill: var(--succeeded)" />`, "items that ended")}
    ${has((bar) => bar.cached) && mark(html`<rect width="16" height="10" rx="2" style="fill: var(--cached)" />`, "cached")}
    ${Object.entries(WAIT_WORDS).map(([name, word]) => reasons.has(name) && mark(html`<rect width="16" height="10" fill=${`url(#wait-${name})`} />`, word))}
    ${reasons.has("") && mark(html`<rect width="16" height="10" style="fill: var(--wait-other); fill-opacity: 0.3" />`, "waiting")}
    ${has((bar) => bar.critical) && mark(html`<rect y="4" width="16" height="2" style="fill: var(--accent)" />`, "critical path")}
  </p>`;
}

/** One line for those who cannot see the bar, and for its title. */
export function summary(bar, now) {
  if (bar.started_at === null) return `${bar.id}, ${bar.kind}, not begun`;
  const took = duration((bar.finished_at ?? now) - bar.started_at);
  const parts = [bar.id, bar.kind, statusWord(bar.status), bar.finished_at === null ? `for ${took}` : `took ${took}`];
  const waits = waitsOf(bar);
  if (waits.length) parts.push(`waited ${waits.map(([reason, seconds]) => `${reasonWord(reason)} ${duration(seconds)}`).join(", ")}`);
  if (bar.attempts.length) parts.push(`on the wire ${duration(calling(bar, now))} in ${bar.attempts.length} attempts`);
  if (bar.foreach) parts.push(itemsText(bar));
  if (bar.cached) parts.push("cached");
  if (bar.critical) parts.push("on the critical path");
  if (bar.quiet) parts.push(`quiet: ${bar.quiet}`);
  if (bar.error) parts.push(bar.error);
  return parts.filter(Boolean).join(", ");
}

function itemsText(bar) {
  return Object.entries(bar.counts).map(([status, number]) => `${count(number)} ${statusWord(status)}`).join(", ");
}

function waitsOf(bar) {
  return Object.entries(bar.waits).filter(([reason, seconds]) => reason !== "dependency" && seconds >= 0.001).sort((one, other) => other[1] - one[1]);
}

/** The numbers of the bar that is looked at. */
export function Told({ bar, now, attempts }) {
  if (!bar) return html`<div class="line-told"><p>Point at a bar, or walk with the arrow keys, for its numbers.<span class="keys"> Enter opens a node, → what is within it; + and − zoom, 0 shows all, F freezes.</span></p></div>`;
  if (bar.started_at === null) return html`<div class="line-told"><p><strong>${visible(bar.id)}</strong> ${bar.kind} · has not begun</p></div>`;
  const end = bar.finished_at ?? now;
  const waits = waitsOf(bar);
  const turn = Math.max(0, attempts.findLastIndex(([begin]) => begin <= bar.started_at));
  const began = `${duration(bar.started_at - attempts[turn][0])}${attempts.length > 1 ? ` of attempt ${turn + 1} at the run` : ""}`;
  const after = bar.waits.dependency ? ` · ${duration(bar.waits.dependency)} until what it needs had ended` : "";
  return html`<div class="line-told">
    <p><strong>${visible(bar.id)}</strong> ${bar.kind} · ${statusWord(bar.status)}${bar.cached ? " (cached)" : ""}${bar.reused ? " (reused)" : ""} · began at ${began} · ${bar.finished_at === null ? "going on for" : "took"} <strong>${duration(end - bar.started_at)}</strong>${after}</p>
    ${bar.foreach && html`<p>Items: ${itemsText(bar) || "none yet"}</p>`}
    ${waits.length > 0 && html`<p>Waited ${waits.map(([reason, seconds], number) => html`${number ? ", " : ""}<span class=${`why-${drawnAs(reason)}`}><i class="key"></i>${reasonWord(reason)} <strong>${duration(seconds)}</strong></span>`)} <span title="How long is on record, when within the node is not: waits are drawn before the attempt, backoff behind one that failed.">(sums)</span></p>`}
    ${bar.attempts.length > 0 && html`<p>Calling <strong>${duration(calling(bar, now))}</strong>: ${bar.attempts.slice(-6).map((one, number) => html`${number ? ", " : bar.attempts.length > 6 ? "… " : ""}${attemptText(one, now)}`)}</p>`}
    ${bar.quiet && html`<p>Quiet for too long: ${bar.quiet}. <span class="muted">Marked from three times what 95 % of its like took, at least 10 s; from 60 s where that is not known.</span></p>`}
    ${bar.error && html`<p class="tone-failed" style="color: var(--tone)">${visible(bar.error)}</p>`}
  </div>`;
}

function attemptText(one, now) {
  const what = { RateLimited: "429", Abandoned: "abandoned" }[one.error_type] ?? (one.error_type || statusWord(one.status));
  return `${one.hedge ? "hedge" : `attempt ${one.number}`} ${what} ${duration((one.finished_at ?? now) - one.started_at)}`;
}
