// The list of runs, live, and what to do while there are none.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, stream } from "../api.mjs";
import { cost, count, duration, exactly, statusChip, when, dollars } from "../format.mjs";
import { html } from "../html.mjs";
import { Command, Elapsed, Nodes, Sparkline, Trouble } from "../parts.mjs";
import { link, navigate, withQuery } from "../route.mjs";

const STATUSES = ["running", "succeeded", "failed", "interrupted", "paused"];
const FILTERS = ["search", "workflow", "status", "tag"];
const PAUSE = 250;

export function RunsPage({ query }) {
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? ""]));
  const { state, error, more } = useRuns(wanted);
  if (error && !state) return html`<${Trouble} error=${error} />`;
  if (!state) return html`<p class="muted" role="status">Reading runs …</p>`;
  const filtered = FILTERS.some((name) => wanted[name]);
  if (!state.runs.length && !filtered) return html`<${Start} database=${state.database} />`;
  return html`
    <div class="runs-head">
      <h1>Runs</h1>
      <${Filters} wanted=${wanted} state=${state} />
    </div>
    ${state.runs.length
      ? html`<${List} state=${state} />`
      : html`<section class="notice"><h2>No run is like that</h2><p><a href=${link([])}>Show all runs</a></p></section>`}
    ${state.more && html`<p class="more"><button onClick=${more}>Show older runs</button></p>`}
  `;
}

/** The runs that the address asks for, kept up to date. */
function useRuns(wanted) {
  const [state, set] = useState(null);
  const [error, setError] = useState(null);
  const address = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
  const now = useRef({});
  now.current = { state, address };
  const load = async (before = 0) => {
    const limit = before ? 50 : Math.max(50, Math.min(500, now.current.state?.runs.length ?? 0));
    const asked = new URLSearchParams(address);
    asked.set("limit", limit);
    if (before) asked.set("before", before);
    try {
      const found = await get(`/api/runs?${asked}`);
      if (now.current.address !== address) return;
      found.runs = found.runs.map(received);
      set((old) => (before && old ? { ...found, runs: [...old.runs, ...found.runs] } : found));
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  };
  useEffect(() => {
    load();
    return stream("/api/runs/changes", {
      runs({ runs, gone }) {
        const listed = new Map((now.current.state?.runs ?? []).map((run) => [run.run_id, run]));
        if (gone.length || runs.some((run) => listed.get(run.run_id)?.status !== run.status) || !now.current.state) load();
        else set((old) => ({ ...old, runs: old.runs.map((run) => received({ ...run, ...runs.find((one) => one.run_id === run.run_id) })) }));
      },
    });
  }, [address]);
  return { state, error, more: () => load(state.runs.at(-1).seq) };
}

function received(run) {
  return { ...run, received: performance.now() };
}

function Filters({ wanted, state }) {
  const timer = useRef(0);
  const search = (event) => {
    const text = event.currentTarget.value;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => navigate(withQuery({ search: text }), { replace: true }), PAUSE);
  };
  const choose = (name) => (event) => navigate(withQuery({ [name]: event.currentTarget.value }));
  const select = (name, label, values) => html`<label>
    <span class="unseen">${label}</span>
    <select value=${wanted[name]} onChange=${choose(name)}>
      <option value="">${label}: all</option>
      ${values.map((value) => html`<option key=${value} value=${value} selected=${value === wanted[name]}>${value}</option>`)}
    </select>
  </label>`;
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    <label><span class="unseen">Search runs</span><input type="search" placeholder="Id, workflow, tag or input" value=${wanted.search} onInput=${search} /></label>
    ${select("workflow", "Workflow", state.workflows)} ${select("status", "Status", STATUSES)}
    ${state.tags.length > 0 && select("tag", "Tag", state.tags)}
    ${FILTERS.some((name) => wanted[name]) && html`<a class="button" href=${link([])}>Clear</a>`}
  </form>`;
}

function List({ state }) {
  return html`<div class="card runs">
    <table>
      <thead>
        <tr><th>Status</th><th>Workflow</th><th>Run</th><th>Started</th><th class="right">Took</th><th>Nodes done</th><th class="right">Tokens</th><th class="right">Cost</th><th>Last runs took</th></tr>
      </thead>
      <tbody>${state.runs.map((run) => html`<${Row} key=${run.run_id} run=${run} recent=${state.recent?.[run.workflow] ?? []} />`)}</tbody>
    </table>
  </div>`;
}

function Row({ run, recent }) {
  const tokens = run.usage.input_tokens + run.usage.output_tokens;
  const points = recent.filter(([seq]) => seq <= run.seq).slice(-12).map(([, value]) => ({ value }));
  const last = points.at(-1)?.value;
  return html`<tr>
    <td class="status">${statusChip(run.status)}</td>
    <td class="name"><a href=${link(["runs", run.run_id])}>${run.workflow}</a>${run.tags.map((tag) => html` <span class="tag">${tag}</span>`)}</td>
    <td class="id"><code>${run.run_id}</code></td>
    <td title=${exactly(run.started_at)}>${when(run.started_at)}</td>
    <td class="right"><${Elapsed} run=${run} /></td>
    <td class="nodes"><${Nodes} run=${run} /></td>
    <td class="right">${count(tokens)}</td>
    <td class="right" title=${run.cost_usd === null ? "the price of some requests is unknown" : dollars(run.cost_usd)}>${cost(run)}</td>
    <td class="spark"><${Sparkline} points=${points} label=${`The last ${points.length} runs of ${run.workflow}; the newest took ${duration(last)}`} /></td>
  </tr>`;
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
