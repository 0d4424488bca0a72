import { html } from "../html.mjs";

export function Items() {
  return html`<p class="muted">Items come here.</p>`;
}
