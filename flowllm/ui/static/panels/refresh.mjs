// Reading again as a run goes on: at once, then not more often than so many milliseconds, the last change never missed.
import { useEffect, useRef } from "preact/hooks";

export function useThrottled(read, milliseconds, changed) {
  const state = useRef({ last: -Infinity, timer: 0, busy: false, again: false, read });
  state.current.read = read;
  useEffect(() => {
    const now = state.current;
    const go = async () => {
      now.timer = 0;
      now.busy = true;
      now.last = performance.now();
      await now.read();
      now.busy = false;
      if (now.again) {
        now.again = false;
        plan();
      }
    };
    const plan = () => {
      if (now.busy) now.again = true;
      else if (!now.timer) now.timer = setTimeout(go, Math.max(0, now.last + milliseconds - performance.now()));
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
