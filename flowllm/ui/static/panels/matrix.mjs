import { html } from "../html.mjs";

export function Matrix() {
  return html`<p class="muted">The matrix comes here.</p>`;
}
