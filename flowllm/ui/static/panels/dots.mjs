// The items of a foreach as dots on a canvas: only the rows that are seen are drawn, so that their number does not matter.
import { useEffect, useRef, useState } from "preact/hooks";
import { count, visible } from "../format.mjs";
import { html } from "../html.mjs";

export const WORDS = { s: "succeeded", f: "failed", r: "running", w: "waiting", c: "cancelled", k: "skipped", b: "blocked", ".": "not begun" };
const [SMALLEST, LARGEST] = [5, 16];
const ROOM = 240;
const TALLEST = 320;
const FAINT = 0.14;
const ROOMY = 9; // from which on nothing must stand out of its cell to be seen
const MARGIN = 4;

/** `grid`: `{codes: Uint8Array, total, version}`; `only`: a Set of letters, or null for all; `open`: the index that is marked, or -1; `onPick(index)`. */
export function Dots({ grid, only, open, label, onPick }) {
  const box = useRef(null);
  const canvas = useRef(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState(0);
  const [tip, setTip] = useState(null);
  const [theme, setTheme] = useState(0);
  const plan = layout(grid.total, width);

  useEffect(() => {
    const seen = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    seen.observe(box.current);
    const again = () => setTheme((number) => number + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", again);
    system.addEventListener("change", again);
    return () => {
      seen.disconnect();
      removeEventListener("themechange", again);
      system.removeEventListener("change", again);
    };
  }, []);
  const focused = useRef(false);
  const paint = () => draw(canvas.current, box.current, grid, plan, only, focused.current ? at : open);
  useEffect(() => {
    const frame = requestAnimationFrame(paint);
    return () => cancelAnimationFrame(frame);
  }, [grid, grid.version, width, only, at, open, theme]);

  const picked = (event) => indexAt(event, box.current, plan, grid.total);
  const moved = (event) => {
    const index = picked(event);
    if (index === null) return setTip(null);
    const bounds = box.current.getBoundingClientRect();
    return setTip({ index, x: Math.min(event.clientX - bounds.left + 12, bounds.width - 160), y: event.clientY - bounds.top + 14 });
  };
  const go = (index) => {
    const next = Math.max(0, Math.min(grid.total - 1, index));
    setAt(next);
    show(next);
  };
  const show = (index) => {
    const top = Math.floor(index / plan.columns) * plan.cell;
    const end = top + plan.cell + 2 * MARGIN - plan.height;
    if (top < box.current.scrollTop) box.current.scrollTop = top;
    else if (end > box.current.scrollTop) box.current.scrollTop = end;
  };
  useEffect(() => {
    if (open >= 0 && width > 0) go(open);
  }, [open, width]);
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = plan.columns * Math.max(1, Math.floor(plan.height / plan.cell) - 1);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -plan.columns, ArrowDown: plan.columns, PageUp: -page, PageDown: page };
    if (event.key in steps) go(at + steps[event.key]);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(grid.total - 1);
    else if (event.key === "f" || event.key === "F") go(beside(grid, at, event.key === "f" ? 1 : -1, "f") ?? at);
    else if (event.key === "Enter" || event.key === " ") onPick(at);
    else return;
    event.preventDefault();
  };
  const word = (index) => WORDS[String.fromCharCode(grid.codes[index])] ?? "not begun";
  return html`<div class="dots-frame">
    <div
      class="dots"
      ref=${box}
      tabindex="0"
      role="slider"
      aria-label=${label}
      aria-orientation="horizontal"
      aria-valuemin="0"
      aria-valuemax=${Math.max(0, grid.total - 1)}
      aria-valuenow=${at}
      aria-valuetext=${grid.total ? `item ${at}: ${word(at)}` : "none"}
      aria-keyshortcuts="f F Enter"
      style=${{ height: `${plan.height}px` }}
      onKeyDown=${pressed}
      onFocus=${() => ((focused.current = true), paint())}
      onBlur=${() => ((focused.current = false), paint())}
      onScroll=${paint}
      onMouseMove=${moved}
      onMouseLeave=${() => setTip(null)}
      onClick=${(event) => {
        const index = picked(event);
        if (index !== null) (go(index), onPick(index));
      }}
    >
      <canvas ref=${canvas} aria-hidden="true"></canvas>
      <div style=${{ height: `${plan.whole - plan.height}px` }}></div>
    </div>
    ${tip && html`<div class="dots-tip" style=${{ left: `${tip.x}px`, top: `${tip.y}px` }}><strong>${count(tip.index)}</strong> ${visible(word(tip.index))}</div>`}
    <p class="unseen" role="status">${focused.current && grid.total ? `item ${at}: ${word(at)}` : ""}</p>
  </div>`;
}

/** The next index, in that direction, that has the letter; null if there is none. */
export function beside(grid, from, step, letter) {
  const code = letter.charCodeAt(0);
  for (let index = from + step; index >= 0 && index < grid.total; index += step) if (grid.codes[index] === code) return index;
  return null;
}

/** Cells as large as there is room for, so that few items are large dots and many are small ones. */
export function layout(total, width) {
  const usable = Math.max(1, width - 2 * MARGIN);
  const cell = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(Math.sqrt((usable * ROOM) / Math.max(1, total)))));
  const columns = Math.max(1, Math.floor(usable / cell));
  const rows = Math.ceil(total / columns);
  const whole = rows * cell + 2 * MARGIN;
  return { cell, columns, rows, whole, height: Math.max(cell, Math.min(TALLEST, whole)) };
}

function indexAt(event, box, plan, total) {
  const bounds = box.getBoundingClientRect();
  const column = Math.floor((event.clientX - bounds.left - MARGIN) / plan.cell);
  const row = Math.floor((event.clientY - bounds.top + box.scrollTop - MARGIN) / plan.cell);
  const index = row * plan.columns + column;
  return column < 0 || column >= plan.columns || row < 0 || row >= plan.rows || index >= total ? null : index;
}

// How much of a cell a status fills, and whether it is hollow: the shape says what the colour says.
const SHAPES = { ".": [0.3, false], s: [0.8, false], c: [0.5, false], k: [0.3, false], b: [0.5, true], w: [0.8, true], r: [0.9, true], f: [2, false] };
const CALM = { s: 0.5, c: 0.7 };
const COLOURS = { s: "--succeeded", f: "--failed", r: "--running", w: "--waiting", c: "--cancelled", k: "--skipped", b: "--blocked", ".": "--line" };

function draw(canvas, box, grid, plan, only, focus) {
  if (!canvas || !box || box.clientWidth === 0) return;
  const ratio = devicePixelRatio || 1;
  const [width, height] = [box.clientWidth, plan.height];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(box);
  const top = box.scrollTop - MARGIN;
  const first = Math.max(0, Math.floor(top / plan.cell)) * plan.columns;
  const last = Math.min(grid.total, (Math.floor((top + height) / plan.cell) + 1) * plan.columns);
  for (const [letter, [share, hollow]] of Object.entries(SHAPES)) {
    const code = letter.charCodeAt(0);
    const size = Math.max(letter === "." || letter === "k" ? 1.5 : 2.5, Math.min((plan.cell - 1) * share, plan.cell < ROOMY ? plan.cell + 1 : plan.cell - 2));
    const inset = (plan.cell - 1 - size) / 2;
    const line = Math.max(1, size / 6);
    pen.fillStyle = pen.strokeStyle = style.getPropertyValue(COLOURS[letter]);
    pen.lineWidth = line;
    pen.globalAlpha = only && !only.has(letter) ? FAINT : only ? 1 : (CALM[letter] ?? 1);
    pen.beginPath();
    for (let index = first; index < last; index += 1) {
      if (grid.codes[index] !== code && !(letter === "." && grid.codes[index] === 0)) continue;
      const x = MARGIN + (index % plan.columns) * plan.cell + inset;
      const y = Math.floor(index / plan.columns) * plan.cell - top + inset;
      if (hollow && size > 4) pen.rect(x + line / 2, y + line / 2, size - line, size - line);
      else pen.rect(x, y, size, size);
    }
    if (hollow && size > 4) pen.stroke();
    else pen.fill();
  }
  pen.globalAlpha = 1;
  if (focus >= first && focus < last) {
    pen.strokeStyle = style.getPropertyValue("--focus");
    pen.lineWidth = 2;
    pen.strokeRect(MARGIN + (focus % plan.columns) * plan.cell - 2, Math.floor(focus / plan.columns) * plan.cell - top - 2, plan.cell + 3, plan.cell + 3);
  }
}
