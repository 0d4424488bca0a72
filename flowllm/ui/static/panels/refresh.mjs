// Reading again as a run goes on: at once, then not more often than so many milliseconds, nor for more than a tenth of the time;
// the last change is never missed.
import { useEffect, useRef } from "preact/hooks";

export function useThrottled(read, milliseconds, changed) {
  const state = useRef({ next: -Infinity, timer: 0, busy: false, again: false, read });
  state.current.read = read;
  useEffect(() => {
    const now = state.current;
    const go = async () => {
      now.timer = 0;
      now.busy = true;
      const began = performance.now();
      await now.read();
      now.busy = false;
      now.next = began + Math.max(milliseconds, 10 * (performance.now() - began));
      if (now.again) {
        now.again = false;
        plan();
      }
    };
    const plan = () => {
      if (now.busy) now.again = true;
      else if (!now.timer) now.timer = setTimeout(go, Math.max(0, now.next - performance.now()));
    };
    plan();
  }, changed);
  useEffect(
    () => () => {
      clearTimeout(state.current.timer);
      state.current.again = false;
    },
    [],
  );
}
