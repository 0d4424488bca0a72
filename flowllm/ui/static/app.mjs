// The page's frame: what is always there, and which page the address wants.
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useConnection } from "./api.mjs";
import { html } from "./html.mjs";
import { Compare } from "./pages/compare.mjs";
import { RunPage } from "./pages/run.mjs";
import { RunsPage } from "./pages/runs.mjs";
import { Help } from "./panels/help.mjs";
import { prose, sentence } from "./parts.mjs";
import { link, useRoute } from "./route.mjs";

function App() {
  const { path, query } = useRoute();
  const main = useRef(null);
  const place = path.join("/");
  useEffect(() => {
    document.title = path[1] ? `${path[1]} · flowllm` : "Runs · flowllm";
    scrollTo(0, 0);
  }, [place]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current?.focus())}>Skip to content</a>
    <header class="top">
      <a class="wordmark" href=${link([])}>${MARK}<span>flowllm</span></a>
      <nav aria-label="Pages">
        <a href=${link([])} aria-current=${path.length === 0 ? "page" : null}>Runs</a>
        ${path[0] === "runs" && html`<span class="crumb" aria-current="page">${path[1]}</span>`}
        ${path[0] === "compare" && html`<span class="crumb" aria-current="page">Compare</span>`}
      </nav>
      <${Live} />
      <${Help} />
      <${Theme} />
    </header>
    <main id="main" tabindex="-1" ref=${main}>${chosen(path, query)}</main>
  `;
}

function chosen(path, query) {
  if (path.length === 0) return html`<${RunsPage} query=${query} />`;
  if (path[0] === "runs" && path.length === 2) return html`<${RunPage} key=${path[1]} id=${path[1]} query=${query} />`;
  if (path[0] === "compare") return html`<${Compare} base=${query.get("base")} run=${query.get("run")} step=${query.get("step")} />`;
  return html`<section class="notice"><h1>There is nothing here</h1><p><a href=${link([])}>All runs</a></p></section>`;
}

function Live() {
  const { state, message, hint } = useConnection();
  if (state === "lost") {
    return html`<p class="connection lost" role="status"><strong>${sentence(message.replace(/\.$/, ""))}.</strong> <span>${prose(hint)}</span></p>`;
  }
  return html`<p class="connection ${state}" role="status">${state === "live" ? "live" : ""}</p>`;
}

const THEMES = ["auto", "light", "dark"];
const KEPT = "flowllm-theme";

function Theme() {
  const [theme, set] = useState(() => localStorage.getItem(KEPT) ?? "auto");
  useEffect(() => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    localStorage.setItem(KEPT, theme);
    dispatchEvent(new Event("themechange"));
  }, [theme]);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return html`<button class="quiet theme" title=${`Colours: ${theme}. Press for ${next}.`} aria-label=${`Colours: ${theme}`} onClick=${() => set(next)}>
    <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><circle cx="8" cy="8" r="6.25" fill="none" stroke="currentColor" stroke-width="1.5" /><path d=${HALVES[theme]} fill="currentColor" /></svg>
  </button>`;
}

const HALVES = { auto: "M8 2a6 6 0 0 1 0 12z", light: "M8 5a3 3 0 1 1 0 6 3 3 0 0 1 0-6z", dark: "M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2z" };

const MARK = html`<svg viewBox="0 0 16 16" width="20" height="20" aria-hidden="true">
  <g fill="none" stroke="currentColor" stroke-width="1.5"><path d="M4.4 4.6 8 8l3.6-3.4M8 8v4" /></g>
  <g fill="currentColor"><circle cx="3.8" cy="3.8" r="1.9" /><circle cx="12.2" cy="3.8" r="1.9" /><circle cx="8" cy="12.4" r="1.9" /></g>
</svg>`;

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
