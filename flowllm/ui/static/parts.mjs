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
