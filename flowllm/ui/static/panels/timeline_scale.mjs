// Times as places: ticks, the window that is seen, and how spans are drawn. Pure.

const NICE = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];

/** The round seconds between two ticks, about one every `room` px, where `span` seconds are `width` px. */
export function stepOf(span, width, room = 80) {
  return NICE.find((size) => (size / span) * width >= room) ?? NICE.at(-1);
}

/** Multiples of `step` from `begin` to `end`. */
export function ticks(begin, end, step) {
  const found = [];
  for (let at = Math.ceil(begin / step - 1e-9); at * step <= end; at += 1) found.push(at * step);
  return found;
}

/** 0, 250 ms, 1.5 s, 2:05, 1:02:05: what stands at a tick. */
export function tickText(seconds, step) {
  if (Math.abs(seconds) < 1e-9) return "0";
  if (step < 1 && seconds < 60) return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(step < 0.1 ? 2 : 1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  const rest = step < 60 || !hours ? `:${two(whole % 60)}` : "";
  return hours ? `${hours}:${two(minutes)}${rest || " h"}` : `${minutes}${rest}`;
}

/**
 * Time as it is drawn. Between attempts at the run, `[[begin, end], …]`, nothing goes on: that takes the share `wide` of the whole, or down
 * to half of that where it was short. Gives `to` and `from` (wall clock seconds to drawn ones, and back), and in drawn seconds `parts` `[[begin, end], …]` and
 * `gaps` `[{begin, end, seconds}, …]`.
 */
export function squeezed(attempts, wide) {
  const between = attempts.length - 1;
  const share = Math.min(wide, 0.4 / Math.max(1, between));
  const most = (share * attempts.reduce((sum, [begin, end]) => sum + end - begin, 0)) / (1 - between * share);
  const gaps = [];
  let shift = 0;
  const shifts = attempts.map(([begin], at) => {
    if (!at) return 0;
    const stopped = attempts[at - 1][1];
    const seconds = Math.max(0, begin - stopped);
    const takes = Math.min(most, Math.max(seconds, most / 2));
    gaps.push({ begin: stopped - shift, end: stopped - shift + takes, seconds });
    return (shift += seconds - takes);
  });
  const to = (time) => {
    const at = Math.max(0, attempts.findLastIndex(([begin]) => begin <= time));
    const drawn = time - shifts[at];
    return at < between ? Math.min(drawn, gaps[at].end) : drawn;
  };
  const from = (drawn) => drawn + shifts[Math.max(0, attempts.findLastIndex(([begin], at) => begin - shifts[at] <= drawn))];
  return { to, from, gaps, parts: attempts.map(([begin, end], at) => [begin - shifts[at], end - shifts[at]]) };
}

/** The window after zooming by `factor` about the share `at` of it, within `[begin, end]`, never under `least` seconds. */
export function zoomed([from, to], factor, at, [begin, end], least = 0.02) {
  const span = Math.min(end - begin, Math.max(least, (to - from) / factor));
  const middle = from + (to - from) * at;
  return kept([middle - span * at, middle + span * (1 - at)], [begin, end]);
}

/** The window moved by a share of it. */
export function panned([from, to], share, bounds) {
  const by = (to - from) * share;
  return kept([from + by, to + by], bounds);
}

export function kept([from, to], [begin, end]) {
  const span = Math.min(to - from, end - begin);
  const first = Math.min(Math.max(from, begin), end - span);
  return [first, first + span];
}

/** Of the reasons for waiting, those that are drawn alike. */
const DRAWN_AS = {
  rate: "rate",
  tokens: "tokens",
  slot: "slot",
  server_pause: "pause",
  breaker: "pause",
  backoff: "backoff",
  budget: "budget",
  equal_call: "equal",
  prefix: "equal",
  cache_lookup: "lookup",
  batch: "equal",
  commit: "commit",
  open_items: "other",
};

export function drawnAs(reason) {
  return DRAWN_AS[reason] ?? "other";
}

export const WAIT_WORDS = {
  rate: "rate",
  tokens: "tokens",
  slot: "slot",
  pause: "pause, breaker",
  backoff: "backoff",
  budget: "budget",
  equal: "equal call",
  lookup: "cache lookup",
  commit: "commit",
  other: "other wait",
};

export function reasonWord(reason) {
  return reason ? reason.replaceAll("_", " ") : "wait, its reason is known at the end";
}

/** How much of a bar was on the wire: overlapping attempts count once. Seconds. */
export function calling(bar, now) {
  let sum = 0;
  let busy = -Infinity;
  for (const { started_at: begin, finished_at: end } of bar.attempts) {
    const until = end ?? now;
    sum += Math.max(0, until - Math.max(begin, busy));
    busy = Math.max(busy, until);
  }
  return sum;
}

/** The count that reaches the top: the largest, but not above five times what is usual, so that one burst leaves the rest to be seen. */
export function topOf(counts) {
  const some = counts.filter((count) => count > 0).sort((one, other) => one - other);
  return some.length ? Math.min(some.at(-1), 5 * some[Math.floor(some.length / 2)]) : 0;
}

/** An area of counts a span: the path of their heights from `bottom` up, the largest `height` high, each span `wide` px. */
export function area(counts, largest, wide, left, bottom, height) {
  if (!largest) return "";
  const at = (count) => (bottom - Math.min(1, count / largest) * height).toFixed(1);
  const steps = counts.map((count, span) => `V${at(count)}H${(left + (span + 1) * wide).toFixed(1)}`).join("");
  return `M${left.toFixed(1)} ${bottom}${steps}V${bottom}z`;
}
