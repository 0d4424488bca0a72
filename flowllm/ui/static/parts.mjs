// Small parts that several pages have.
import { useEffect, useState } from "preact/hooks";
import { count, duration } from "./format.mjs";
import { html } from "./html.mjs";
import { link } from "./route.mjs";

/** Seconds since a run began, counted on while it goes on. */
export function Elapsed({ run }) {
  const [, tick] = useState(0);
  const going = run.status === "running";
  useEffect(() => {
    if (!going) return undefined;
    const timer = setInterval(() => tick((number) => number + 1), 1000);
    return () => clearInterval(timer);
  }, [going]);
  const since = going && run.received ? (performance.now() - run.received) / 1000 : 0;
  const seconds = run.elapsed_s + since;
  return html`<span class="number">${going && seconds >= 1 ? duration(Math.floor(seconds)).replace(".0 s", " s") : duration(seconds)}</span>`;
}

/** How many nodes, items too, ended well, failed, and are under way. */
export function Nodes({ run }) {
  const { succeeded = 0, failed = 0, running = 0, waiting = 0 } = run.nodes;
  const going = run.status === "running" ? running + waiting : 0;
  return html`<span class="node-counts number">
    <span>${count(succeeded)}</span>
    ${failed > 0 && html`<span class="failed">${count(failed)} failed</span>`}
    ${going > 0 && html`<span class="going">${count(going)} under way</span>`}
  </span>`;
}

/** A button that copies a text, or what a function gives, and says that it did; `what` is told where the eye sees it by the place. */
export function Copy({ text, label = "Copy", what = null }) {
  const [done, set] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? await text() : text);
      set("Copied");
    } catch {
      set("Select it and press Ctrl+C");
    }
    setTimeout(() => set(""), 2000);
  };
  return html`<button class="copy" onClick=${copy} aria-label=${what && `${label} ${what}`}>${done || label}<span class="unseen" role="status">${done}</span></button>`;
}

/** A command line to be copied. */
export function Command({ text }) {
  return html`<div class="command"><code tabindex="0">${text}</code><${Copy} text=${text} /></div>`;
}

/** What went wrong, and what to do. */
export function Trouble({ error }) {
  return html`<section class="notice trouble" role="alert">
    <h1>${sentence(error.message)}</h1>
    ${error.hint && html`<p>${prose(error.hint)}</p>`}
    ${error.status === 404 && html`<p><a href=${link([])}>All runs</a></p>`}
  </section>`;
}

/** A text in which commands stand between backticks. */
export function prose(text) {
  return text.split("`").map((part, at) => (at % 2 ? html`<code>${part}</code>` : part));
}

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A line of the last values, the newest marked; a hollow mark for each that is alone. Values from 0, as `{value, label}`. */
export function Sparkline({ points, label, width = 96, height = 20 }) {
  const known = points.filter((point) => point.value !== null);
  if (known.length < 2) return html`<span class="muted">–</span>`;
  const top = Math.max(...known.map((point) => point.value)) || 1;
  const x = (at) => 2 + (at * (width - 4)) / (known.length - 1);
  const y = (value) => height - 3 - (value / top) * (height - 6);
  const line = known.map((point, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(point.value).toFixed(1)}`).join("");
  const last = known.length - 1;
  return html`<svg class="sparkline" viewBox="0 0 ${width} ${height}" width=${width} height=${height} role="img" aria-label=${label}>
    <title>${label}</title>
    <path class="floor" d="M2 ${height - 2.5}H${width - 2}" /><path class="values" d=${line} />
    <circle cx=${x(last)} cy=${y(known[last].value)} r="2" />
  </svg>`;
}
