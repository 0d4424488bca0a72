import { html } from "../html.mjs";

export function Compare() {
  return html`<p class="muted">The comparison comes here.</p>`;
}
