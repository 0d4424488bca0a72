// Figures and statuses as people read them.
import { html } from "./html.mjs";

const NONE = "–";

/** 850 ms, 12.3 s, 4 m 05 s, 2 h 03 m. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours.toLocaleString("en")} h ${two(minutes)} m` : `${minutes} m ${two(whole % 60)} s`;
}

/** The same to the whole second, or minute, hour and day: 5 s, 4 m, 3 h, 2 d. */
export function roughly(seconds) {
  const [size, unit] = seconds < 1 ? [0.001, "ms"] : seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "m"] : seconds < 172_800 ? [3600, "h"] : [86_400, "d"];
  return `${Math.round(seconds / size)} ${unit}`;
}

/** As the command line writes sums: four significant digits, and to the cent at least. */
export function dollars(usd) {
  if (usd === null || usd === undefined) return "unknown";
  const sum = Number(usd.toFixed(10)); // else the same costs, added up in another order, may be written otherwise
  if (sum === 0) return "$0";
  const digits = Math.max(2, 3 - Math.floor(Math.log10(Math.abs(sum))));
  const [whole, rest] = sum.toFixed(digits).split("."); // toLocaleString rounds a half otherwise than the command line
  return `$${Number(whole).toLocaleString("en")}.${rest.replace(/0+$/, "").padEnd(2, "0")}`;
}

/** What a run cost: exact, at least so much, or unknown. */
export function cost(run) {
  if (run.cost_usd !== null) return dollars(run.cost_usd);
  return run.cost_at_least > 0 ? `≥ ${dollars(run.cost_at_least)}` : "unknown";
}

/** 1,234; 45.6 k; 7.89 M. */
export function count(number) {
  if (number === null || number === undefined) return NONE;
  if (number < 10_000) return number.toLocaleString("en");
  const [unit, size] = number < 1e6 ? ["k", 1e3] : number < 1e9 ? ["M", 1e6] : ["G", 1e9];
  return `${(number / size).toPrecision(3)} ${unit}`;
}

/** 45,612; of a sum of which not all is known ≥ 45,612. */
export function whole(number, least = null) {
  if (number !== null && number !== undefined) return number.toLocaleString("en");
  return least ? `≥ ${least.toLocaleString("en")}` : NONE;
}

export function percent(share) {
  return share === null || share === undefined ? NONE : `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

const DAY = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const SAME_YEAR = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });

/** Local: 14:02 of today, Nov 3 14:02, Nov 3, 2024 14:02. */
export function when(seconds, now = Date.now()) {
  if (seconds === null || seconds === undefined) return NONE;
  const [then, today] = [new Date(seconds * 1000), new Date(now)];
  if (then.toDateString() === today.toDateString()) return TIME.format(then);
  const day = then.getFullYear() === today.getFullYear() ? SAME_YEAR : DAY;
  return `${day.format(then)} ${TIME.format(then)}`;
}

/** The same to the second and with its zone, for titles. */
export function exactly(seconds) {
  return seconds === null || seconds === undefined ? "" : new Date(seconds * 1000).toLocaleString(undefined, { timeZoneName: "short" });
}

/** Characters that are not seen, or that turn writing around, as escapes. */
export function visible(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (char) => {
    return `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

export function statusWord(status) {
  return status.replaceAll("_", " ");
}

/** Which colour a status has, also those of runs. */
export function statusTone(status) {
  return { interrupted: "cancelled", paused: "waiting", pending: "skipped" }[status] ?? status;
}

const SHAPES = {
  succeeded: html`<circle cx="8" cy="8" r="7" /><path class="mark" d="M4.8 8.3 7.1 10.6 11.3 5.9" />`,
  failed: html`<path d="M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z" /><path class="mark" d="m5.6 5.6 4.8 4.8m0-4.8-4.8 4.8" />`,
  running: html`<path class="line" d="M8 1.8A6.2 6.2 0 1 1 1.8 8" /><circle cx="8" cy="8" r="2.6" />`,
  waiting: html`<circle class="line" cx="8" cy="8" r="6.2" /><path class="line" d="M8 4.6V8l2.4 1.8" />`,
  paused: html`<circle cx="8" cy="8" r="7" /><path class="mark" d="M6.2 5.4v5.2m3.6-5.2v5.2" />`,
  cancelled: html`<circle cx="8" cy="8" r="7" /><path class="mark" d="M4.8 8h6.4" />`,
  interrupted: html`<circle cx="8" cy="8" r="7" /><path class="mark" d="M5.8 5.8h4.4v4.4H5.8z" />`,
  skipped: html`<path class="line" d="m3.4 4 4 4-4 4m5.2-8 4 4-4 4" />`,
  blocked: html`<circle class="line" cx="8" cy="8" r="6.2" /><path class="line" d="m3.8 12.2 8.4-8.4" />`,
  pending: html`<circle class="line dashed" cx="8" cy="8" r="6.2" />`,
  cached: html`<path d="M9 1 3.4 9h3.8L6.6 15 12.6 6.6H8.4z" />`,
};

/** A shape of its own for each status, coloured by it; the word stands beside it, or in `label`. */
export function statusIcon(status, label = null) {
  return html`<svg
    class="status-icon tone-${statusTone(status)}"
    viewBox="0 0 16 16"
    width="16"
    height="16"
    role=${label ? "img" : null}
    aria-label=${label}
    aria-hidden=${label ? null : "true"}
    >${SHAPES[status] ?? SHAPES.pending}</svg
  >`;
}

/** Icon and word, on the tint of the status. */
export function statusChip(status) {
  return html`<span class="chip tone-${statusTone(status)}">${statusIcon(status)}<span>${statusWord(status)}</span></span>`;
}
