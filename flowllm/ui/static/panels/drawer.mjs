// One node, beside whatever is looked at: what came back, what was sent, and why.
import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "../api.mjs";
import { cost, count, dollars, duration, exactly, statusChip, visible, when } from "../format.mjs";
import { html } from "../html.mjs";
import { Command, Trouble, sentence } from "../parts.mjs";
import { withQuery } from "../route.mjs";
import { Value, partPath } from "../values.mjs";
import { Attempts, Waits } from "./node_parts.mjs";
import { useCalm } from "./refresh.mjs";

const LIVE = new Set(["pending", "running", "waiting"]);
const KEYS = { j: "next", k: "previous", J: "next_failed", K: "previous_failed" };

/** The panel of a node. Escape closes it; j and k go to the next item and the one before, J and K among the failed. */
export function Drawer({ run, id, onClose, onOpen }) {
  const { node, error } = useNode(run, id);
  const panel = useRef(null);
  const opener = useRef(null);
  useEffect(() => {
    opener.current = document.activeElement;
    panel.current.focus();
    return () => opener.current?.isConnected && opener.current.focus();
  }, []);
  const shown = useRef(null); // known to the keys as soon as it is seen, which is before effects run
  shown.current = node;
  useEffect(() => {
    const pressed = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const beside = shown.current?.[KEYS[event.key]];
      if (event.key === "Escape") onClose();
      else if (!event.target.closest?.("input, select, textarea") && beside) onOpen(beside);
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [onClose, onOpen]);
  useEffect(() => panel.current.querySelector(".drawer-body").scrollTo(0, 0), [id]);
  return html`<aside class="drawer" role="dialog" aria-label=${`Node ${id}`} tabindex="-1" ref=${panel}>
    <${Head} id=${id} node=${node} onClose=${onClose} onOpen=${onOpen} />
    <div class="drawer-body">
      ${error ? html`<${Trouble} error=${error} />` : node ? html`<${Body} run=${run} node=${node} />` : html`<p class="muted" role="status">Reading …</p>`}
    </div>
  </aside>`;
}

/** The node, read again as its run goes on for as long as it has not ended. */
function useNode(run, id) {
  const [state, set] = useState({ id: null, node: null, error: null });
  const live = state.id === id && state.node !== null && LIVE.has(state.node.status);
  const version = useCalm(live || state.error ? run.changes : 0);
  useEffect(() => {
    const gone = new AbortController();
    get(`/api/runs/${encodeURIComponent(run.run_id)}/node?${new URLSearchParams({ id })}`, { signal: gone.signal }).then(
      (node) => set({ id, node, error: null }),
      (error) => gone.signal.aborted || set({ id, node: null, error }),
    );
    return () => gone.abort();
  }, [run.run_id, run.status, id, version]);
  return state.id === id ? state : { node: state.node?.id === id ? state.node : null, error: null };
}

function Head({ id, node, onClose, onOpen }) {
  const step = (name, key, label, sign) => html`<button
    class="quiet"
    title=${`${label} (${key})`}
    aria-label=${label}
    aria-keyshortcuts=${key}
    disabled=${!node?.[name]}
    onClick=${() => onOpen(node[name])}
    >${sign}</button
  >`;
  return html`<header class="drawer-head">
    ${node && statusChip(node.status)}
    <h2><code>${visible(id)}</code></h2>
    <span class="drawer-tools">
      ${node?.index !== null && node && html`${step("previous", "k", "Previous item", "↑")}${step("next", "j", "Next item", "↓")}`}
      ${node && (node.previous_failed || node.next_failed) && html`${step("next_failed", "J", "Next failed item", "↓ failed")}`}
      <button class="quiet" title="Close (Esc)" aria-label="Close" onClick=${onClose}>✕</button>
    </span>
  </header>`;
}

function Body({ run, node }) {
  const path = (part) => partPath(run.run_id, node.id, part);
  return html`
    <${Facts} node=${node} />
    ${node.reason && html`<p class="because">${sentence(visible(node.reason))}.</p>`}
    ${node.suspended && html`<p class="because">It waits for a value (${visible(node.suspended.kind)}) under the token <code>${visible(node.suspended.token)}</code>.</p>`}
    ${node.error && html`<${Failure} error=${node.error} path=${path("answer")} />`}
    ${node.output && html`<${Value} key=${`${node.id} out`} name=${node.kind === "prompt" ? "Answer" : "Output"} shown=${node.output} path=${path("output")} />`}
    ${node.counts && html`<p><a class="button" href=${withQuery({ view: "items", parent: node.id, node: null })}>Show its ${count(node.counts.total)} items</a></p>`}
    ${node.item && html`<${Value} key=${`${node.id} item`} name="Item" shown=${node.item} path=${path("item")} />`}
    ${node.messages.map((message, at) => html`<${Value} key=${`${node.id} ${at}`} name=${ROLES[message.role] ?? sentence(message.role)} shown=${message.content} path=${path(`message.${at}`)} />`)}
    ${node.computed_from && html`<${Value} key=${`${node.id} from`} name="Computed from" shown=${node.computed_from} path=${path("request")} />`}
    <${Why} node=${node} />
    ${node.within.length > 0 && html`<${Within} nodes=${node.within} />`}
    <${Attempts} attempts=${node.attempt_log} />
    ${node.settings && html`<details class="settings"><summary>Request settings</summary><${Value} name="Settings" shown=${node.settings} path=${path("request")} /></details>`}
    <section class="commands"><h3>In a terminal</h3><${Command} text=${node.command + run.db_option} /></section>
  `;
}

const ROLES = { system: "System", user: "Prompt", assistant: "Assistant", texts: "Texts to embed", text: "Text to embed" };

function Facts({ node }) {
  const { input_tokens: into, output_tokens: out, cached_input_tokens: cached } = node.usage;
  const fact = (name, value, title = null) => html`<div title=${title}><dt>${name}</dt><dd class="number">${value}</dd></div>`;
  const sent = Boolean(node.model) && (node.attempts > 0 || into > 0);
  return html`<dl class="facts">
    ${node.took_s !== null && fact("Took", duration(node.took_s), `${duration(node.call_s)} in calls, ${duration(node.queue_s)} in queues`)}
    ${node.started_at !== null && fact("Started", when(node.started_at), exactly(node.started_at))}
    ${sent && fact("Tokens in", `${into === null ? "unknown" : count(into)}${cached ? `, ${count(cached)} cached` : ""}`)}
    ${sent && fact("Tokens out", out === null ? "unknown" : count(out))}
    ${sent && fact("Cost", cost(node))}
    ${node.model && fact("Model", visible(node.model), `at ${node.provider}`)}
    ${fact("Kind", node.kind)}
    ${node.cached && fact("From the cache", node.stored_at ? `stored ${when(node.stored_at)}` : "yes", exactly(node.stored_at))}
    ${node.reused && fact("Reused", "of an earlier attempt at this run")}
    ${node.truncated && fact("Cut", "at its token limit")}
  </dl>`;
}

export function Failure({ error, path }) {
  return html`<section class="failed-with" aria-label="Error">
    <h3>${error.type}</h3>
    <p class="message">${error.message}</p>
    ${error.hint && html`<p class="hint">${error.hint}</p>`}
    ${error.traceback && html`<pre class="text" tabindex="0" role="region" aria-label="Traceback">${error.traceback}</pre>`}
    ${error.answer && html`<${Value} name="Last answer" shown=${error.answer} path=${path} />`}
  </section>`;
}

function Why({ node }) {
  const why = node.why;
  return html`<section class="why">
    <h3>Why</h3>
    ${why && html`<p>${visible(why.text)}</p>`}
    ${why?.causes.map((cause) => html`<p key=${cause} class="cause">because ${visible(cause)}</p>`)}
    ${why?.changes.map((change) => html`<div key=${change.path} class="change"><h4>${change.path}</h4><pre class="before">${visible(change.before.slice(0, 2000))}</pre><pre class="after">${visible(change.after.slice(0, 2000))}</pre></div>`)}
    <${Waits} waits=${node.waits} equal=${why?.equal_call} run=${node.run_id} />
  </section>`;
}

function Within({ nodes }) {
  return html`<section><h3>Steps within</h3><ul class="within">
    ${nodes.map((one) => html`<li key=${one.id}>
      <a href=${withQuery({ node: one.id })}><code>${visible(one.id)}</code></a>${statusChip(one.status)}
      <span class="muted number">${duration(one.took_s)}${one.cost_usd ? `, ${dollars(one.cost_usd)}` : ""}</span>
    </li>`)}
  </ul></section>`;
}
