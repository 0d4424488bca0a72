// Rows that are one stop of Tab: the arrows, Home and End go from one to the next (WAI-ARIA Authoring Practices: roving tabindex).
import { useState } from "preact/hooks";

/** `{keys, stop}`: `onKeyDown=${keys}` belongs to what is around the rows, `...${stop(at)}` to the link or button of each. */
export function useRoving(count) {
  const [chosen, set] = useState(0);
  const now = Math.max(0, Math.min(chosen, count - 1));
  const keys = (event) => {
    const from = Number(event.target.dataset.row);
    const to = { ArrowUp: from - 1, ArrowDown: from + 1, Home: 0, End: count - 1 }[event.key];
    if (Number.isNaN(from) || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.currentTarget.querySelector(`[data-row="${Math.max(0, Math.min(to, count - 1))}"]`)?.focus();
  };
  const stop = (at) => ({ "data-row": at, tabindex: at === now ? 0 : -1, onFocus: () => set(at) });
  return { keys, stop };
}
