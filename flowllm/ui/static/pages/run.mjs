// One run: its head, and what is shown of it.
import { useCallback, useEffect, useState } from "preact/hooks";
import { get, post } from "../api.mjs";
import { cost, count, dollars, duration, exactly, percent, statusChip, statusTone, visible, when, whole } from "../format.mjs";
import { html } from "../html.mjs";
import { Drawer } from "../panels/drawer.mjs";
import { Graph } from "../panels/graph.mjs";
import { Items } from "../panels/items.mjs";
import { Matrix } from "../panels/matrix.mjs";
import { Throttled } from "../panels/throttled.mjs";
import { Timeline } from "../panels/timeline.mjs";
import { Command, Elapsed, Nodes, sentence, Trouble } from "../parts.mjs";
import { link, navigate, withQuery } from "../route.mjs";
import { useRun } from "../run_state.mjs";
import { Value } from "../values.mjs";

const SIGNS = { running: "▸", succeeded: "✓", failed: "✗", interrupted: "−", paused: "‖" };

export function RunPage({ id, query }) {
  const { run, nodes, items, error } = useRun(id);
  const onOpen = useCallback((node) => navigate(withQuery({ node })), []);
  const onClose = useCallback(() => navigate(withQuery({ node: null })), []);
  useEffect(() => {
    if (run) document.title = `${SIGNS[run.status] ?? ""} ${run.workflow} · flowllm`.trim(); // also read among other tabs
  }, [run?.status, run?.workflow]);
  if (error && !run) return html`<${Trouble} error=${error} />`;
  if (!run) return html`<p class="muted" role="status">Reading the run …</p>`;
  const node = query.get("node");
  return html`
    <${Head} run=${run} nodes=${nodes} />
    <${Views} query=${query} nodes=${nodes} />
    <${Chosen} view=${query.get("view") ?? "graph"} parent=${query.get("parent")} ...${{ run, nodes, items, onOpen }} />
    ${node && html`<${Drawer} run=${run} id=${node} onClose=${onClose} onOpen=${onOpen} />`}
  `;
}

function Chosen({ view, parent, run, nodes, items, onOpen }) {
  if (view === "throttled") return html`<${Throttled} run=${run} />`;
  if (view === "items") return html`<${Items} run=${run} parent=${parent} items=${items} onOpen=${onOpen} />`;
  if (view === "models") return html`<${Models} run=${run} />`;
  if (view === "values") return html`<${Values} run=${run} />`;
  if (view === "matrix") return html`<${Matrix} run=${run} parent=${parent} onOpen=${onOpen} />`;
  return html`<div class="side-by-side">
    <section class="card panel" aria-label="Graph"><${Graph} run=${run} nodes=${nodes} onOpen=${onOpen} /></section>
    <section class="card panel" aria-label="Timeline"><${Timeline} run=${run} nodes=${nodes} onOpen=${onOpen} /></section>
  </div>`;
}

function Views({ query, nodes }) {
  const now = query.get("view") ?? "graph";
  const tab = (view, text, parent = null) => {
    const current = (now === "matrix" ? "items" : now) === view && query.get("parent") === parent;
    return html`<a href=${withQuery({ view: view === "graph" ? null : view, parent })} aria-current=${current ? "page" : null}>${text}</a>`;
  };
  const foreaches = [...nodes.values()].filter((node) => node.counts !== null);
  return html`<nav class="views" aria-label="Views of this run">
    ${tab("graph", "Graph and timeline")}
    ${foreaches.map((node) => html`<${Foreach} key=${node.id} node=${node} tab=${tab} />`)}
    ${tab("throttled", "Am I throttled?")}
    ${tab("values", "Inputs and outputs")}
    ${tab("models", "Models and commands")}
  </nav>`;
}

function Foreach({ node, tab }) {
  return tab("items", html`Items of <code>${visible(node.id)}</code>`, node.id);
}

function Head({ run, nodes }) {
  return html`<header class="run-head">
    <div class="title">
      ${statusChip(run.status)}
      <h1>${visible(run.workflow)}</h1>
      ${run.tags.map((tag) => html`<span class="tag">${visible(tag)}</span>`)}
      <span class="muted" title=${exactly(run.started_at)}>${when(run.started_at)}</span>
      <${Actions} run=${run} />
    </div>
    <dl class="figures">
      <${Figure} name=${`${run.status === "running" ? "Elapsed" : "Took"}${run.attempt > 1 ? ` in ${run.attempt} attempts` : ""}`}><${Elapsed} run=${run} /><//>
      ${run.eta_s !== null && run.status === "running" && html`<${Figure} name="Items done in">${`about ${duration(Math.round(run.eta_s))}`.replace(".0 s", " s")}<//>`}
      <${Figure} name="Cost">${cost(run)}<${Budget} spent=${run.cost_at_least} most=${run.budget?.usd} shown=${dollars} /><//>
      <${Figure} name="Tokens">${count(run.usage.input_tokens + run.usage.output_tokens)}<${Budget} spent=${run.usage.input_tokens + run.usage.output_tokens} most=${run.budget?.tokens} shown=${count} /><//>
      <${Figure} name="Input cached">${percent(run.cached_share)}<//>
      <${Figure} name="Requests">${count(run.requests)}<//>
      <${Figure} name="Nodes done"><${Nodes} run=${run} /><//>
    </dl>
    <${Failure} run=${run} />
    <${Failed} nodes=${nodes} />
  </header>`;
}

const DOES = { resume: "Resume", retry: "Retry failed", stop: "Stop" };
const SAYS = { resume: "Starting …", retry: "Starting …", stop: "Asked to stop: what is in flight gets to finish …" };

/** Buttons, where the server allows them. What was asked is said until the run's status shows it. */
function Actions({ run }) {
  const [told, tell] = useState({});
  useEffect(() => tell(({ output }) => ({ output })), [run.status, run.attempt]);
  const act = async (action) => {
    tell({ busy: action });
    try {
      const { output } = await post(`/api/runs/${encodeURIComponent(run.run_id)}/${action}`);
      if (output) tell((before) => ({ ...before, output }));
    } catch (error) {
      tell({ error });
    }
  };
  return html`
    <div class="actions">
      <span role="status" class="muted">${told.busy ? SAYS[told.busy] : ""}</span>
      <a class="button" href=${link(["compare"], { run: run.run_id })}>Compare</a>
      ${run.actions.map((action) => html`<button key=${action} class=${action === "resume" ? "primary" : ""} disabled=${Boolean(told.busy)} onClick=${() => act(action)}>${DOES[action]}</button>`)}
    </div>
    ${told.output && html`<p class="muted told">What it prints: <code>${told.output}</code></p>`}
    ${told.error && html`<p role="alert" class="told failure tone-failed">${sentence(told.error.message)}${told.error.hint && html`<span class="hint">${visible(told.error.hint)}</span>`}</p>`}
  `;
}

function Figure({ name, children }) {
  return html`<div><dt>${name}</dt><dd class="number">${children}</dd></div>`;
}

function Budget({ spent, most, shown }) {
  if (!most) return null;
  const share = Math.min(1, spent / most);
  return html`<span class="budget"><span class="muted"> of ${shown(most)}</span><meter class="meter" min="0" max="1" high="0.9" value=${share} aria-label="Part of the budget that is spent"></meter></span>`;
}

function Failure({ run }) {
  if (!run.failure) return null;
  const { message, type, hint } = run.failure;
  return html`<p class=${`failure tone-${statusTone(run.status)}`}>${sentence(visible(message || type || ""))}${hint && html`<span class="hint">${sentence(visible(hint))}</span>`}</p>`;
}

const MOST_FAILED = 3;

/** The steps that failed, each a link to all that is known of it. */
function Failed({ nodes }) {
  const failed = [...nodes.values()].filter((node) => node.status === "failed");
  if (!failed.length) return null;
  const more = failed.length - MOST_FAILED;
  return html`<ul class="failure failed-steps tone-failed" aria-label="Steps that failed">
    ${failed.slice(0, MOST_FAILED).map((node) => html`<li key=${node.id}><a href=${withQuery({ node: node.id })}>${visible(node.id)}</a> failed: <span class="hint">${visible(node.error ?? "")}</span></li>`)}
    ${more > 0 && html`<li>and ${count(more)} more</li>`}
  </ul>`;
}

/** What it took of each model, and what to type in a terminal. */
function Models({ run }) {
  return html`
    <section class="card panel models"><h2>Models</h2><${ByModel} run=${run} /></section>
    <section class="card panel commands"><h2>In a terminal</h2>
      ${run.status !== "running" && run.status !== "succeeded" && html`<${Command} text=${`flowllm resume ${run.run_id}${run.db_option}`} />`}
      <${Command} text=${`flowllm show ${run.run_id}${run.db_option}`} />
      ${run.nodes.failed > 0 && html`<${Command} text=${`flowllm failed ${run.run_id}${run.db_option}`} />`}
      <${Command} text=${`flowllm report ${run.run_id} --output run.html${run.db_option}`} />
    </section>
  `;
}

/** What the run was given, and what came of it. */
function Values({ run }) {
  const path = (of, at) => `/api/runs/${encodeURIComponent(run.run_id)}/value?${new URLSearchParams({ of, number: at + 1 })}`;
  const part = (of, values) => values.map((one, at) => html`<${Value} key=${`${of} ${one.name} ${one.size}`} name=${one.name} shown=${one} path=${path(of, at)} />`);
  return html`<div class="side-by-side values">
    <section class="card panel"><h2>Inputs</h2>${run.inputs.length ? part("inputs", run.inputs) : html`<p class="muted">It takes none.</p>`}</section>
    <section class="card panel"><h2>Outputs</h2>${run.outputs?.length ? part("outputs", run.outputs) : html`<p class="muted">${run.status === "running" ? "They come when the run ends." : "There are none."}</p>`}</section>
  </div>`;
}

const AGAIN = 5000;

/** Asked for when it is looked at, and again while the run goes on. */
function ByModel({ run }) {
  const [{ models, error }, set] = useState({});
  const going = run.status === "running";
  useEffect(() => {
    const load = () => get(`/api/runs/${encodeURIComponent(run.run_id)}/models`).then(set, (problem) => set((before) => ({ ...before, error: problem })));
    load();
    const timer = going ? setInterval(load, AGAIN) : 0;
    return () => clearInterval(timer);
  }, [run.run_id, going]);
  if (error && !models) return html`<${Trouble} error=${error} />`;
  if (!models?.length) return html`<p class="muted">${models ? "It asked none." : "Reading …"}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Models">
      <table>
        <thead><tr><th>Model</th><th class="right">Requests</th><th class="right">Failed</th><th class="right">429</th><th class="right">Tokens in</th><th class="right">cached</th><th class="right">out</th><th class="right">Cost</th><th class="right">p50</th><th class="right">p99</th><th class="right">Throttled</th><th>Saved by caches</th></tr></thead>
        <tbody>${models.map((model) => html`<${Model} key=${`${model.provider} ${model.model}`} model=${model} />`)}</tbody>
      </table>
    </div>`;
}

function Model({ model }) {
  const { usage, latency_s: latency } = model;
  const each = model.throttled_s / Math.max(1, model.requests); // all that wait at once wait longer together than the run takes
  const known = { cost_usd: model.cost_usd, cost_at_least: model.at_least.cost_usd };
  const saved = [
    model.response_cache.answers > 0 && `${count(model.response_cache.answers)} answers${model.response_cache.saved_usd ? `, ${dollars(model.response_cache.saved_usd)}` : ""}`,
    model.prompt_cache.saved_usd > 0 && `${dollars(model.prompt_cache.saved_usd)} of prompts`,
  ].filter(Boolean);
  return html`<tr>
    <td>${visible(model.model)} <span class="muted">${visible(model.provider)}</span></td>
    <td class="right">${whole(model.requests)}</td>
    <td class="right">${whole(model.failed)}</td>
    <td class="right">${whole(model.rate_limited)}</td>
    <td class="right">${whole(usage.input_tokens, model.at_least.input_tokens)}</td>
    <td class="right">${whole(usage.cached_input_tokens)}</td>
    <td class="right">${whole(usage.output_tokens, model.at_least.output_tokens)}</td>
    <td class="right">${cost(known)}</td>
    <td class="right">${duration(latency.p50)}</td>
    <td class="right">${duration(latency.p99)}</td>
    <td class="right">${each >= 0.1 ? `${duration(each)} each` : "–"}</td>
    <td>${saved.join("; ") || "–"}</td>
  </tr>`;
}
