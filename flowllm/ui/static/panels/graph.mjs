import { html } from "../html.mjs";

export function Graph() {
  return html`<p class="muted">The graph comes here.</p>`;
}
