// Which part of a graph is seen: dragged, zoomed, or all of it.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { BOX } from "./graph_layout.mjs";

export const ZOOM = { least: 0.04, most: 2, step: 1.25 };

/** The height in px that a drawing gets at most. */
export function tallest() {
  return Math.min(640, innerHeight * 0.68);
}

/** It fits until somebody moves it. */
export function useView(frame, drawn) {
  const [view, set] = useState({ x: 0, y: 0, scale: 1, height: 320 });
  const moved = useRef(false);
  const drag = useRef(null);
  const fit = () => {
    moved.current = false;
    const width = frame.current?.clientWidth;
    if (!width) return;
    const scale = Math.max(ZOOM.least, Math.min(1, (width - 24) / drawn.width, (tallest() - 24) / drawn.height));
    const height = Math.min(tallest(), Math.max(160, drawn.height * scale + 24));
    set({ scale, height, x: Math.max(12, (width - drawn.width * scale) / 2), y: Math.max(12, (height - drawn.height * scale) / 2) });
  };
  const change = (next) => {
    moved.current = true;
    set(next);
  };
  const zoom = (by, at = null) =>
    change((now) => {
      const scale = Math.min(ZOOM.most, Math.max(ZOOM.least, now.scale * by));
      const [x, y] = at ?? [frame.current.clientWidth / 2, frame.current.clientHeight / 2];
      return { ...now, scale, x: x - ((x - now.x) * scale) / now.scale, y: y - ((y - now.y) * scale) / now.scale };
    });
  const reveal = (box) => {
    const { clientWidth: width, clientHeight: height } = frame.current;
    set((now) => {
      const [left, top] = [now.x + box.left * now.scale, now.y + box.top * now.scale];
      const dx = Math.min(0, width - 12 - left - box.width * now.scale) + Math.max(0, 12 - left);
      const dy = Math.min(0, height - 12 - top - BOX.height * now.scale) + Math.max(0, 12 - top);
      return dx || dy ? { ...now, x: now.x + dx, y: now.y + dy } : now;
    });
  };
  useLayoutEffect(() => {
    if (!moved.current) fit();
  }, [drawn]);
  useEffect(() => {
    const box = frame.current;
    const seen = new ResizeObserver(() => moved.current || fit());
    seen.observe(box);
    const wheel = (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const { left, top } = box.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 300), [event.clientX - left, event.clientY - top]);
    };
    box.addEventListener("wheel", wheel, { passive: false });
    return () => {
      seen.disconnect();
      box.removeEventListener("wheel", wheel);
    };
  }, [drawn]);
  const handlers = {
    onPointerDown(event) {
      if (event.button === 0) drag.current = { x: event.clientX, y: event.clientY, view, far: false };
    },
    onPointerMove(event) {
      const from = drag.current;
      if (!from || !event.buttons) return;
      const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
      if (!from.far && Math.hypot(dx, dy) < 4) return;
      if (!from.far) frame.current.setPointerCapture(event.pointerId);
      from.far = true;
      change({ ...from.view, x: from.view.x + dx, y: from.view.y + dy });
    },
    onPointerUp() {
      setTimeout(() => (drag.current = null));
    },
    onClickCapture(event) {
      if (drag.current?.far) event.stopPropagation();
    },
  };
  return { ...view, moved: moved.current, fit, zoom, reveal, drag: handlers };
}
