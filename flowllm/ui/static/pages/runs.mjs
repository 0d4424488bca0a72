// The list of runs, live, and what to do while there are none.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, stream } from "../api.mjs";
import { cost, count, duration, exactly, statusChip, statusTone, visible, when, dollars } from "../format.mjs";
import { html } from "../html.mjs";
import { Command, Elapsed, Nodes, Trouble } from "../parts.mjs";
import { link, navigate, withQuery } from "../route.mjs";
import { useRoving } from "../roving.mjs";

const STATUSES = ["running", "succeeded", "failed", "interrupted", "paused"];
const FILTERS = ["search", "workflow", "status", "tag"];
const PAUSE = 250;

export function RunsPage({ query }) {
  const wanted = Object.fromEntries([...FILTERS, "before"].map((name) => [name, query.get(name) ?? ""]));
  const { state, error } = useRuns(link([], wanted).slice(2));
  const chosen = Object.values(wanted).some(Boolean);
  if (!state && !error) return html`<p class="muted" role="status">Reading runs …</p>`;
  if (state && !state.runs.length && !chosen) return html`<${Start} database=${state.database} />`;
  return html`
    <div class="runs-head">
      <h1>Runs</h1>
      ${state && html`<${Filters} wanted=${wanted} state=${state} chosen=${chosen} />`}
    </div>
    ${error && html`<${Trouble} error=${error} />${!state && html`<p class="more"><a href=${link([])}>Show all runs</a></p>`}`}
    ${state && !error && (state.runs.length
      ? html`<${List} state=${state} />`
      : html`<section class="notice"><h2>No run is like that</h2><p><a href=${link([])}>Show all runs</a></p></section>`)}
    ${state && !error && html`<${Pages} state=${state} before=${wanted.before} />`}
  `;
}

/** The runs that a query asks for, kept up to date; those of the query before stay until they are there. */
function useRuns(query) {
  const [{ state, error }, set] = useState({ state: null, error: null });
  useEffect(() => {
    const gone = new AbortController();
    const show = (found) => set({ state: { ...found, runs: found.runs.map(received) }, error: null });
    get(`/api/runs${query}`, { signal: gone.signal }).then(show, (problem) => gone.signal.aborted || set((old) => ({ ...old, error: problem })));
    const stop = stream(`/api/runs/changes${query}`, {
      list: show,
      runs({ runs }) {
        const news = new Map(runs.map((run) => [run.run_id, received(run)]));
        set((old) => ({ state: { ...old.state, runs: old.state.runs.map((run) => news.get(run.run_id) ?? run) }, error: null }));
      },
    });
    return () => {
      gone.abort();
      stop();
    };
  }, [query]);
  return { state, error };
}

function received(run) {
  return { ...run, received: performance.now() };
}

function Pages({ state, before }) {
  if (!before && !state.more) return null;
  return html`<nav class="more" aria-label="Pages of runs">
    ${before && html`<a class="button" href=${withQuery({ before: null })}>Newest</a>`}
    ${state.more && html`<a class="button" href=${withQuery({ before: state.runs.at(-1).seq })}>Older</a>`}
  </nav>`;
}

function Filters({ wanted, state, chosen }) {
  const timer = useRef(0);
  const search = (event) => {
    const text = event.currentTarget.value;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => navigate(withQuery({ search: text, before: null }), { replace: true }), PAUSE);
  };
  const choose = (name) => (event) => navigate(withQuery({ [name]: event.currentTarget.value, before: null }));
  const select = (name, label, values) => html`<label>
    <span class="unseen">${label}</span>
    <select value=${wanted[name]} onChange=${choose(name)}>
      <option value="">${label}: all</option>
      ${values.map((value) => html`<option key=${value} value=${value} selected=${value === wanted[name]}>${visible(value)}</option>`)}
    </select>
  </label>`;
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    <label><span class="unseen">Search runs</span><input type="search" placeholder="Id, workflow, tag or input" value=${wanted.search} onInput=${search} /></label>
    ${select("workflow", "Workflow", state.workflows)} ${select("status", "Status", STATUSES)}
    ${state.tags.length > 0 && select("tag", "Tag", state.tags)}
    ${chosen && html`<a class="button" href=${link([])}>Clear</a>`}
  </form>`;
}

function List({ state }) {
  const { keys, stop } = useRoving(state.runs.length);
  return html`<div class="card runs">
    <table>
      <thead>
        <tr><th>Status</th><th>Workflow</th><th>Run</th><th>Started</th><th class="right">Took</th><th>Nodes done</th><th class="right">Tokens</th><th class="right">Cost</th><th>Last runs took</th></tr>
      </thead>
      <tbody onKeyDown=${keys}>${state.runs.map((run, at) => html`<${Row} key=${run.run_id} run=${run} stop=${stop(at)} recent=${state.recent?.[run.workflow] ?? []} />`)}</tbody>
    </table>
  </div>`;
}

function Row({ run, stop, recent }) {
  const tokens = run.usage.input_tokens + run.usage.output_tokens;
  return html`<tr>
    <td class="status">${statusChip(run.status)}</td>
    <td class="name">
      <a ...${stop} href=${link(["runs", run.run_id])}>${visible(run.workflow)}</a>${run.tags.map((tag) => html` <span class="tag">${visible(tag)}</span>`)}
      ${run.error && html`<p class="wrong" title=${visible(run.error)}>${visible(run.error)}</p>`}
    </td>
    <td class="id"><code>${run.run_id}</code></td>
    <td title=${exactly(run.started_at)}>${when(run.started_at)}</td>
    <td class="right"><${Elapsed} run=${run} /></td>
    <td class="nodes"><${Nodes} run=${run} /></td>
    <td class="right tokens">${count(tokens)}</td>
    <td class="right" title=${run.cost_usd === null ? "the price of some requests is unknown" : dollars(run.cost_usd)}>${cost(run)}</td>
    <td class="spark"><${Recent} run=${run} runs=${recent.filter(([seq]) => seq <= run.seq).slice(-RECENT)} /></td>
  </tr>`;
}

const RECENT = 12;
const [BAR, GAP, TALL] = [6, 2, 20];

/** How long the runs of a workflow took, up to this one, each in the colour of how it ended. */
function Recent({ run, runs }) {
  if (runs.length < 2) return html`<span class="muted">–</span>`;
  const top = Math.max(...runs.map(([, seconds]) => seconds)) || 1;
  const failed = runs.filter(([, , status]) => status === "failed").length;
  const label = `The last ${runs.length} runs of ${run.workflow}: the newest took ${duration(runs.at(-1)[1])}, the longest ${duration(top)}${failed ? `, ${failed} failed` : ""}`;
  return html`<svg class="recent" width=${RECENT * (BAR + GAP)} height=${TALL} role="img" aria-label=${label}>
    <title>${label}</title>
    ${runs.map(([seq, seconds, status], at) => {
      const height = Math.max(2, (TALL * seconds) / top);
      return html`<rect key=${seq} class="tone-${statusTone(status)} ${seq === run.seq ? "this" : ""}" x=${(RECENT - runs.length + at) * (BAR + GAP)} y=${TALL - height} width=${BAR} height=${height} />`;
    })}
  </svg>`;
}

function Start({ database }) {
  return html`<section class="notice start">
    <h1>No runs yet</h1>
    <p>${database.missing ? html`There is no database at <code>${database.path}</code> yet; the first run makes it.` : html`The database <code>${database.path}</code> holds no runs.`} This page goes on by itself.</p>
    <ol>
      <li><p>Write a starter project, in a folder of its own:</p><${Command} text="flowllm init" /></li>
      <li><p>Run it on the simulated provider, which needs no key and costs nothing:</p><${Command} text="flowllm run workflows/blog.yaml --provider simulated" /></li>
      <li><p>Runs of another folder? Start the page there, or name their database:</p><${Command} text="flowllm ui --db PATH/.flowllm/flowllm.db" /></li>
    </ol>
  </section>`;
}
