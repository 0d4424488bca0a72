import { html } from "../html.mjs";

export function Timeline() {
  return html`<p class="muted">The timeline comes here.</p>`;
}
