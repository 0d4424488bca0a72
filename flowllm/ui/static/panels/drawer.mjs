import { html } from "../html.mjs";

export function Drawer({ id, onClose }) {
  return html`<aside class="drawer" aria-label=${id}><button onClick=${onClose}>Close</button><p>${id}</p></aside>`;
}
