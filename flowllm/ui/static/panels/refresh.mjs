// Reading again as a run goes on: at once, then not more often than so many milliseconds, nor for more than a sixth of the time;
// the last change is never missed.
import { useEffect, useRef, useState } from "preact/hooks";

export const OFTEN = 700; // with the quarter of a second that the server looks at the database in, a change is seen within one

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
      now.next = began + Math.max(milliseconds, 6 * (performance.now() - began));
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

/** A value that changes often, once a second at most. */
export function useCalm(value) {
  const [calm, set] = useState(value);
  const timer = useRef(0);
  const newest = useRef(value);
  newest.current = value;
  useEffect(() => {
    if (value === calm || timer.current) return;
    timer.current = setTimeout(() => {
      timer.current = 0;
      set(newest.current);
    }, 1000);
  }, [value, calm]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return calm;
}
