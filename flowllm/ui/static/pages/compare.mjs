// What differs between two runs: a baseline that is chosen, the steps, and what changed in them.
import { useEffect, useState } from "preact/hooks";
import { get } from "../api.mjs";
import { cost, count, dollars, duration, exactly, statusChip, visible, when } from "../format.mjs";
import { html } from "../html.mjs";
import { Elapsed, Trouble } from "../parts.mjs";
import { link, navigate, withQuery } from "../route.mjs";

const FIRST = 20;
const MOST = 500;
const CHOICES = 100;
const AGAIN = 2000;
const TONES = { same: "skipped", changed: "waiting", added: "succeeded", removed: "failed", open: "running" };

export function Compare({ base, run, step }) {
  const [limit, setLimit] = useState(FIRST);
  const [found, error] = useAnswer("/api/compare", { base, run, step, limit }, isGoing);
  const workflow = found?.run.workflow ?? null;
  const [like] = useAnswer("/api/runs", workflow && { workflow, limit: CHOICES });
  const [any] = useAnswer("/api/runs", { limit: CHOICES });
  if (!found && !error) return html`<p class="muted" role="status">Comparing …</p>`;
  const both = Boolean(found?.base);
  const others = any?.runs.filter((one) => one.workflow !== workflow) ?? [];
  return html`<div class="compare">
    <section class="card">
      <h1>${title(found)}</h1>
      <${Sides} base=${found?.base ?? null} run=${found?.run ?? null} asked=${{ base, run }} like=${like?.runs ?? []} others=${others} />
      ${both && html`<${Given} found=${found} />`}
      ${found && isGoing(found) && html`<p class="notes muted">What has not ended is left out; this goes on with the run.</p>`}
      ${found && !both && html`<p class="notes">This is the first run of its workflow. Choose a run to hold it against.</p>`}
    </section>
    ${error && html`<${Trouble} error=${error} />`}
    ${both && html`<${Steps} found=${found} step=${step} />`}
    ${both && html`<${Changes} found=${found} step=${step} more=${() => setLimit(Math.min(MOST, limit * 5))} />`}
  </div>`;
}

function isGoing({ base, run }) {
  return [base, run].some((one) => one?.status === "running");
}

function title(found) {
  if (!found) return "Compare two runs";
  const names = [...new Set([found.base ?? found.run, found.run].map((one) => visible(one.workflow)))];
  return `What differs ${names.length > 1 ? "between" : "in"} ${names.join(" and ")}`;
}

/** What a path answers, and what went wrong; the last answer stays until the next one is there. Null: nothing is asked. While an
 * answer `goes` on, or there is none, it is asked for again, for a tenth of the time at most. */
function useAnswer(path, query, goes = () => false) {
  const address = query && link([], query).replace("#/", path);
  const [state, set] = useState([null, null]);
  useEffect(() => {
    if (!address) return undefined;
    const stop = new AbortController();
    let timer = 0;
    const ask = async () => {
      const began = performance.now();
      try {
        const found = await get(address, { signal: stop.signal });
        set([found, null]);
        if (goes(found)) timer = setTimeout(ask, Math.max(AGAIN, 10 * (performance.now() - began)));
      } catch (error) {
        if (error.name === "AbortError") return;
        set(([old]) => [error.status === 404 ? null : old, error]);
        if (!error.status) timer = setTimeout(ask, AGAIN);
      }
    };
    ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [address]);
  return state;
}

function Sides({ base, run, asked, ...choices }) {
  const swap = () => navigate(link(["compare"], { base: run.run_id, run: base.run_id }));
  return html`<div class="sides">
    <${Side} name="base" label="Baseline" run=${base} id=${base?.run_id ?? asked.base} ...${choices} />
    <button onClick=${swap} disabled=${!base || !run} title="Hold the earlier run against the later one">Swap</button>
    <${Side} name="run" label="Run" run=${run} id=${run?.run_id ?? asked.run} ...${choices} />
  </div>`;
}

function Side({ name, label, run, id, like, others }) {
  const known = run && ![...like, ...others].some((one) => one.run_id === run.run_id) ? [run, ...like] : like;
  const option = (one, named) => html`<option key=${one.run_id} value=${one.run_id} selected=${one.run_id === id}>${when(one.started_at)} · ${one.status} · ${named ? `${visible(one.workflow)} · ` : ""}${one.run_id}</option>`;
  const choose = (event) => navigate(withQuery({ [name]: event.currentTarget.value }));
  return html`<div class="side">
    <label for=${`side-${name}`}>${label}</label>
    <select id=${`side-${name}`} value=${id ?? ""} onChange=${choose}>
      ${!id && html`<option value="">Choose a run</option>`}
      ${known.map((one) => option(one, false))}
      ${others.length > 0 && html`<optgroup label="Other workflows">${others.map((one) => option(one, true))}</optgroup>`}
    </select>
    ${run && html`<p>
      ${statusChip(run.status)}
      <a href=${link(["runs", run.run_id])} title=${exactly(run.started_at)}>${run.run_id}</a>
      <span class="number"><${Elapsed} run=${run} /></span><span class="number">${cost(run)}</span>
      <span class="number muted">${count(run.usage.input_tokens + run.usage.output_tokens)} tokens</span>
    </p>`}
  </div>`;
}

function Given({ found }) {
  if (!found.given.length && !found.edited.length) return null;
  return html`<ul class="given">
    ${found.given.map((one) => html`<li key=${one.path}>${visible(one.path)}: <${Values} field=${one} /></li>`)}
    ${found.edited.length > 0 && html`<li>edited: ${visible(found.edited.join(", "))}</li>`}
  </ul>`;
}

function Steps({ found, step }) {
  const [all, setAll] = useState(false);
  const same = found.steps.filter((one) => one.verdict === "same").length;
  const shown = found.steps.filter((one) => all || one.verdict !== "same" || one.asked);
  const hidden = found.steps.length - shown.length;
  return html`<section class="card">
    <h2>Steps</h2>
    ${shown.length > 0 && html`<div class="scroll" tabindex="0" role="group" aria-label="Steps"><table>
      <thead><tr><th>Step</th><th>Difference</th><th class="right">Tokens</th><th class="right">In calls</th><th class="right">Cost</th><th>Asked otherwise</th></tr></thead>
      <tbody>${shown.map((one) => html`<${Step} key=${one.step} one=${one} chosen=${one.step === step} />`)}</tbody>
    </table></div>`}
    ${found.steps.flatMap((one) => one.means.map((mean) => html`<p key=${one.step + mean.path}>mean of <code>${visible(mean.path ? `${one.step}.${mean.path}` : one.step)}</code> in ${count(mean.items)} items that differ: <${Delta} before=${mean.before} after=${mean.after} /></p>`))}
    ${(hidden > 0 || all) && same > 0 && html`<p><button class="quiet" aria-expanded=${all} onClick=${() => setAll(!all)}>${all ? "Show only what differs" : `Show ${hidden} that ${hidden === 1 ? "is" : "are"} the same`}</button></p>`}
  </section>`;
}

function Step({ one, chosen }) {
  return html`<tr aria-current=${chosen ? "true" : null}>
    <td><a href=${withQuery({ step: chosen ? null : one.step })} title=${chosen ? "Show all steps" : "Show this step alone"}><code>${visible(one.step)}</code></a></td>
    <td><span class="chip tone-${TONES[one.verdict]}">${one.differs}</span></td>
    <${Both} one=${one} name="tokens" shown=${count} /><${Both} one=${one} name="call_s" shown=${duration} /><${Both} one=${one} name="cost_usd" shown=${dollars} />
    <td class="asked">${one.asked}</td>
  </tr>`;
}

/** What it took, behind what it had taken before. */
function Both({ one, name, shown }) {
  const [before, after] = [one.before, one.after].map((side) => (side === null ? "–" : shown(side[name])));
  return html`<td class="right number">${before === after ? after : html`<span class="muted">${before} → </span>${after}`}</td>`;
}

function Changes({ found, step, more }) {
  const left = found.total_changes - found.changes.length;
  return html`
    <h2>${found.total_changes ? `${count(found.total_changes)} change${found.total_changes === 1 ? "" : "s"}` : "No output and no status differs"}${step ? html` in <code>${visible(step)}</code> <a class="button" href=${withQuery({ step: null })}>All steps</a>` : ""}</h2>
    ${found.changes.map((change) => html`<${Change} key=${`${change.verdict} ${change.node}`} change=${change} found=${found} />`)}
    ${left > 0 && html`<p class="more">${found.changes.length < MOST ? html`<button onClick=${more}>Show more of ${count(left)} others</button>` : html`<span class="muted">and ${count(left)} others: <code>flowllm diff ${found.base.run_id} ${found.run.run_id}${step ? ` '${visible(step)}'` : ""} --limit ${found.total_changes} --page changes.html</code></span>`}</p>`}
  `;
}

function Change({ change, found }) {
  const { before, after } = change;
  const inRun = after ? found.run.run_id : found.base.run_id;
  const statuses = before && after && before.status !== after.status;
  const errors = statuses ? [["-", before], ["+", after]].filter(([, side]) => side.error) : [];
  return html`<article class="card difference">
    <h3>
      <a href=${link(["runs", inRun], { node: change.node })}><code>${visible(change.node)}</code></a>
      ${statuses && html`${statusChip(before.status)} → ${statusChip(after.status)}`}
      ${!(before && after) && html`<span class="chip tone-${TONES[change.verdict]}">${change.verdict}</span>`}
      ${change.base_node && change.base_node !== change.node && html`<span class="muted">was ${visible(change.base_node)}</span>`}
      ${change.item && html`<span class="line">${change.item}</span>`}
      ${before && after && html`<span class="muted number took">${pair(change, "call_s", duration)} · ${pair(change, "cost_usd", dollars)}</span>`}
    </h3>
    ${errors.length > 0 && html`<div class="diff">${errors.map(([sign, side]) => html`<${Line} key=${sign} sign=${sign} parts=${[[visible(`${side.error.type}: ${side.error.message}`), true]]} />`)}</div>`}
    ${change.fields.map((field) => html`<${Field} key=${field.path} field=${field} />`)}
    ${notes(change) && html`<p class="muted">${notes(change)}</p>`}
  </article>`;
}

function pair({ before, after }, name, shown) {
  const [old, now] = [before, after].map((side) => shown(side[name]));
  return old === now ? now : `${old} → ${now}`;
}

function notes({ why, more_fields: more }) {
  return [more ? `and ${count(more)} more places` : "", why.length ? `asked otherwise: ${visible(why.join(", "))}` : ""].filter(Boolean).join(" · ");
}

function Field({ field }) {
  const caption = html`<figcaption>${visible(field.path || "output")}</figcaption>`;
  if (!field.lines.length) return html`<figure class="short">${caption}<${Values} field=${field} /></figure>`;
  return html`<figure>${caption}
    <div class="diff">${field.lines.map(([sign, parts], at) => html`<${Line} key=${at} sign=${sign} parts=${parts} />`)}</div>
    ${field.more_lines > 0 && html`<p class="muted">and ${count(field.more_lines)} more lines</p>`}
  </figure>`;
}

function Values({ field: { before, after, delta } }) {
  if (delta !== null) return html`<${Delta} before=${before} after=${after} />`;
  return html`<span><del>${before ?? "none"}</del> → <ins>${after ?? "none"}</ins></span>`;
}

function Delta({ before, after }) {
  const shown = (value) => Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
  const delta = after - before;
  return html`<span class="number">${shown(before)} → ${shown(after)} (${delta > 0 ? "+" : ""}${shown(delta)})</span>`;
}

const TAGS = { "-": ["old", "del"], "+": ["new", "ins"] };

function Line({ sign, parts }) {
  const [kind, Tag] = TAGS[sign] ?? [null, "span"];
  return html`<div class=${kind}><span class="sign">${sign}</span><span>${parts.map(([text, differs]) => (differs && kind && text ? html`<${Tag}>${text}<//>` : text))}</span></div>`;
}
