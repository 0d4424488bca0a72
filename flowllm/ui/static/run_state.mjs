// One run in hand: its head, its nodes (never items), and a place to hear of items.
import { useEffect, useState } from "preact/hooks";
import { get, stream } from "./api.mjs";

const EMPTY = { run: null, nodes: new Map(), error: null };

/**
 * `{run, nodes: Map by id, items: {subscribe(fn) => unsubscribe}, error}`, kept up to date.
 * Subscribers of items get `[[parent, index, code, change_no], …]`; one change may come twice.
 */
export function useRun(id) {
  const [state, set] = useState({ ...EMPTY, id, items: hub() });
  useEffect(() => {
    const items = hub();
    const gone = new AbortController();
    let close = () => {};
    set({ ...EMPTY, id, items });
    begin(id, items, gone.signal, set).then((stop) => (gone.signal.aborted ? stop() : (close = stop)));
    return () => {
      gone.abort();
      close();
    };
  }, [id]);
  return state.id === id ? state : { ...EMPTY, id, items: state.items };
}

async function begin(id, items, signal, set) {
  const base = `/api/runs/${encodeURIComponent(id)}`;
  let since = 0;
  let stood = null;
  try {
    const [run, listed] = await Promise.all([get(base, { signal }), get(`${base}/nodes`, { signal })]);
    since = listed.changes;
    stood = `${run.status} ${run.attempt}`;
    set({ ...EMPTY, id, items, run: received(run), nodes: merged(new Map(), listed.nodes) });
  } catch (error) {
    if (!signal.aborted) set({ ...EMPTY, id, items, error });
    if (error.status === 404 || signal.aborted) return () => {};
  }
  const reload = async () => {
    try {
      const run = await get(base, { signal });
      set((before) => ({ ...before, error: null, run: received(run) }));
    } catch {
      // the stream says what is wrong
    }
  };
  return stream(`${base}/changes?since=${since}`, {
    change(data) {
      if (data.items.length) items.publish(data.items);
      set((before) => ({
        ...before,
        error: null,
        run: before.run && received({ ...before.run, ...data.run }),
        nodes: data.nodes.length ? merged(before.nodes, data.nodes) : before.nodes,
      }));
      const stands = `${data.run.status} ${data.run.attempt}`;
      if (stood !== stands) reload(); // outputs, errors and what may be done are told once
      stood = stands;
    },
  });
}

/** With the moment at which it came, from which the time that passes is counted. */
function received(run) {
  return { ...run, received: performance.now() };
}

function merged(nodes, listed) {
  const found = new Map(nodes);
  for (const node of listed) found.set(node.id, node);
  return found;
}

function hub() {
  const listeners = new Set();
  return {
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    publish(changes) {
      for (const listener of listeners) listener(changes);
    },
  };
}
