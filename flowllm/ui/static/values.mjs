// Values of any size, for the eye: texts, and JSON as a tree whose branches are made when they are opened.
import { useState } from "preact/hooks";
import { text as textOf } from "./api.mjs";
import { count } from "./format.mjs";
import { html } from "./html.mjs";
import { Copy } from "./parts.mjs";

const CHUNK = 20_000;
const OPEN = 40;
const INLINE = 12;
const LINE = 90;

/** The address of one part of a node as it is. */
export function partPath(run, id, part) {
  return `/api/runs/${encodeURIComponent(run)}/node/part?${new URLSearchParams({ id, part })}`;
}

/** `shown` as the server gives it: `{text, value, size, cut}`; `path` gives all of it as text. */
export function Value({ name, shown, path, tone = "" }) {
  const [all, setAll] = useState(null);
  const [tree, setTree] = useState(true);
  const known = shown.text === null ? shown.value : shown.cut ? undefined : parse(shown.text);
  const parsed = known === null || typeof known !== "object" ? undefined : known;
  const asTree = parsed !== undefined && tree && all === null;
  const more = async () => setAll(await textOf(path));
  return html`<section class="value ${tone}">
    <header>
      <h3>${name}</h3>
      ${shown.text !== null && parsed !== undefined && html`<button class="copy" aria-pressed=${tree} onClick=${() => setTree(!tree)}>JSON</button>`}
      <${Copy} text=${() => textOf(path)} label=${`Copy`} what=${name} />
    </header>
    ${asTree
      ? html`<div class="tree" tabindex="0" role="region" aria-label=${name}><${Tree} value=${parsed} open=${entries(parsed) <= OPEN} /></div>`
      : html`<${Text} name=${name} text=${all ?? shown.text ?? JSON.stringify(shown.value, null, 2)} />`}
    ${shown.cut && all === null && html`<button class="copy all" onClick=${more}>Show all ${count(shown.size)} characters</button>`}
  </section>`;
}

/** A text in blocks, so that the browser lays out only those that are seen. */
export function Text({ name, text }) {
  return html`<pre class="text" tabindex="0" role="region" aria-label=${name}>${chunks(text).map((chunk, at) => html`<span key=${at} class="chunk">${chunk}</span>`)}</pre>`;
}

function chunks(text) {
  if (text.length <= CHUNK) return [text];
  const found = [];
  for (let begin = 0; begin < text.length; ) {
    const line = text.lastIndexOf("\n", begin + CHUNK);
    const end = line > begin ? line + 1 : Math.min(begin + CHUNK, text.length);
    found.push(text.slice(begin, end));
    begin = end;
  }
  return found;
}

function parse(text) {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function entries(value) {
  return value !== null && typeof value === "object" ? Object.keys(value).length : 0;
}

function Tree({ name = null, value, open = false }) {
  const [shown, set] = useState(open);
  const key = name === null ? "" : html`<span class="key">${name}</span>`;
  if (value === null || typeof value !== "object") return html`<div class="leaf">${key}<${Leaf} value=${value} /></div>`;
  const list = Array.isArray(value);
  const size = entries(value);
  if (size === 0) return html`<div class="leaf">${key}<span class="sign">${list ? "[]" : "{}"}</span></div>`;
  if (list && size <= INLINE && value.every((one) => one === null || typeof one !== "object")) {
    const inner = value.map((one) => (typeof one === "string" && !one.startsWith("…") ? JSON.stringify(one) : String(one))).join(", ");
    if (inner.length <= LINE) return html`<div class="leaf">${key}<span class="sign">[</span><span class="leaf-number">${inner}</span><span class="sign">]</span></div>`;
  }
  const toggle = (event) => set(event.currentTarget.open);
  return html`<details open=${shown} onToggle=${toggle}>
    <summary>${key}<span class="sign">${list ? `[${count(size)}]` : `{${count(size)}}`}</span>${!shown && html`<span class="glimpse">${glimpse(value)}</span>`}</summary>
    ${shown && Object.entries(value).map(([one, inner]) => html`<${Tree} key=${one} name=${one} value=${inner} open=${size <= OPEN && entries(inner) <= 8} />`)}
  </details>`;
}

function Leaf({ value }) {
  const kind = value === null ? "null" : typeof value;
  return html`<span class="leaf-${kind}">${kind === "string" ? value : String(value)}</span>`;
}

/** What a closed branch holds, in a few words. */
function glimpse(value) {
  const words = Object.entries(value)
    .slice(0, 4)
    .map(([name, inner]) => {
      const text = inner !== null && typeof inner === "object" ? (Array.isArray(inner) ? "[…]" : "{…}") : String(inner).slice(0, 24);
      return Array.isArray(value) ? text : `${name}: ${text}`;
    });
  return words.join(", ").slice(0, 80);
}
