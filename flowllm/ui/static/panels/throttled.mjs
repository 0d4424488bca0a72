import { html } from "../html.mjs";

export function Throttled() {
  return html`<p class="muted">What is throttled comes here.</p>`;
}
