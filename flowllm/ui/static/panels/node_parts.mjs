// Of one node: the requests that were sent for it, and what it waited for.
import { count, dollars, duration, exactly, statusIcon, visible, when } from "../format.mjs";
import { html } from "../html.mjs";
import { drawnAs, reasonWord } from "./timeline_scale.mjs";

const TONES = { sent: "running", succeeded: "succeeded", failed: "failed", unknown: "waiting" };
export function Attempts({ attempts }) {
  if (attempts.length === 0) return null;
  const sent = attempts.some((one) => one.is_request); // what a step does itself has no tokens and costs nothing
  return html`<section class="attempts">
    <h3>${attempts.length === 1 ? "1 attempt" : `${count(attempts.length)} attempts`}</h3>
    <div class="sideways" tabindex="0" role="region" aria-label="Attempts"><table>
      <thead><tr><th>#</th><th>Status</th><th>${sent ? "Sent" : "Began"}</th><th class="right">Took</th>${sent && ["In", "Out", "Cost"].map((name) => html`<th key=${name} class="right">${name}</th>`)}</tr></thead>
      <tbody>${attempts.map((one, at) => html`<${Attempt} key=${at} one=${one} />`)}</tbody>
    </table></div>
  </section>`;
}

function Attempt({ one }) {
  const word = one.abandoned ? "hedged" : one.status === "sent" && !one.is_request ? "running" : one.status;
  const { input_tokens: into, output_tokens: out } = one.usage;
  const figures = [into, out].map((number) => (number === null ? "unknown" : count(number)));
  return html`
    <tr>
      <td>${one.number}</td>
      <td class="status">${statusIcon(TONES[one.status] ?? "pending")} ${word}</td>
      <td title=${exactly(one.started_at)}>${when(one.started_at)}</td>
      <td class="right">${duration(one.took_s)}</td>
      ${one.is_request && [...figures, one.status === "sent" ? "" : dollars(one.cost_usd)].map((figure, at) => html`<td key=${at} class="right">${figure}</td>`)}
    </tr>
    ${one.error && html`<tr class="said"><td></td><td colspan="6">${one.error.type && html`<strong>${one.error.type}</strong> `}${visible(one.error.message)}</td></tr>`}
  `;
}

/** A bar of the reasons for which it waited, longest first, each with its word and seconds. */
export function Waits({ waits, equal, run }) {
  const found = Object.entries(waits)
    .filter(([, seconds]) => seconds >= 0.001)
    .sort((one, other) => other[1] - one[1]);
  if (found.length === 0) return null;
  const total = found.reduce((sum, [, seconds]) => sum + seconds, 0);
  return html`<div class="waits">
    <p>It waited ${duration(total)}:</p>
    <div class="waits-bar" aria-hidden="true">${found.map(([reason, seconds]) => html`<i key=${reason} class=${`why-${drawnAs(reason)}`} style=${{ flexGrow: seconds / total }}></i>`)}</div>
    <ul>${found.map(([reason, seconds]) => html`<li key=${reason}><i class=${`why-${drawnAs(reason)}`} aria-hidden="true"></i>${reasonWord(reason)} <span class="number">${duration(seconds)}</span>${reason === "equal_call" && equal && html` <span class="muted">of ${visible(equal.step)}${equal.run_id === run ? "" : ` of run ${equal.run_id}`}</span>`}</li>`)}</ul>
  </div>`;
}
