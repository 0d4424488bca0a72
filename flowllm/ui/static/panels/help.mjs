// The keys, on `?`.
import { useEffect, useRef } from "preact/hooks";
import { html } from "../html.mjs";

const KEYS = [
  ["Everywhere", [["?", "these keys"], ["Esc", "close what is open"], ["Tab", "the next part; Enter follows it"]]],
  ["Graph", [["arrows", "along its edges"], ["Enter", "open the step"], ["Space", "open the graph within it"], ["+ − 0", "zoom, show all"]]],
  ["Timeline", [["↑ ↓", "to another bar"], ["→ ←", "open and close what is within"], ["Shift ← →", "move in time"], ["+ − 0", "zoom, show all"], ["F", "freeze, and go on"], ["Enter", "open the node"]]],
  ["An open node", [["j k", "next item, the one before"], ["J K", "the same among those that failed"]]],
  ["Items as dots", [["arrows", "to another item"], ["f F", "next failed one, the one before"], ["Enter", "open it"]]],
];

/** A button, and what it opens. */
export function Help() {
  const dialog = useRef(null);
  const open = () => dialog.current.open || dialog.current.showModal();
  useEffect(() => {
    const pressed = (event) => {
      if (event.key !== "?" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea")) return;
      event.preventDefault();
      open();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  return html`
    <button class="quiet help-button" title="Keys (?)" aria-label="Keys" aria-keyshortcuts="?" onClick=${open}>?</button>
    <dialog class="help" aria-labelledby="help-title" ref=${dialog} onKeyDown=${(event) => event.stopPropagation()} onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
      <header><h2 id="help-title">Keys</h2><button class="quiet" aria-label="Close" onClick=${() => dialog.current.close()}>✕</button></header>
      <div class="help-parts">${KEYS.map(([where, keys]) => html`<section key=${where}>
        <h3>${where}</h3>
        <dl>${keys.map(([key, what]) => html`<div key=${key}><dt>${key.split(" ").map((one) => html`<kbd key=${one}>${one}</kbd>`)}</dt><dd>${what}</dd></div>`)}</dl>
      </section>`)}</div>
    </dialog>
  `;
}
