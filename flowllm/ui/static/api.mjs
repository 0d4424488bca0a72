// Speaking to the server: JSON, and streams that come back by themselves.
import { useEffect, useState } from "preact/hooks";
import { early } from "./early.mjs";

export class ApiError extends Error {
  constructor(message, hint = "", status = 0) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}

const LOST = ["the server does not answer", "Is `flowllm ui` still running? This page goes on by itself once it is."];
const OTHER = ["this page belongs to an earlier `flowllm ui`", "Open the address that the newer one printed."];

/** The JSON under a path. Throws ApiError. */
export async function get(path, { signal } = {}) {
  const asked = early.get(path);
  early.delete(path);
  return answered(asked ?? fetch(path, { signal, headers: { accept: "application/json" } }));
}

/** The text under a path. Throws ApiError. */
export async function text(path) {
  return answered(fetch(path), (response) => response.text());
}

/** What came of a POST. Throws ApiError. */
export async function post(path, body = {}) {
  return answered(fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }));
}

async function answered(asking, read = (response) => response.json()) {
  let response;
  try {
    response = await asking;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(...LOST);
  }
  if (response.ok) return read(response);
  const body = await response.json().catch(() => ({}));
  throw new ApiError(body.error ?? `the server answered ${response.status}`, body.hint ?? "", response.status);
}

// The state of the streams, for the sign at the top: "live", "lost" with what to do, or "idle" while there is none.
const listeners = new Set();
let connection = { state: "idle", message: "", hint: "" };

function tell(state, message = "", hint = "") {
  if (connection.state === state && connection.message === message) return;
  connection = { state, message, hint };
  for (const listener of listeners) listener(connection);
}

export function useConnection() {
  const [now, set] = useState(connection);
  useEffect(() => {
    listeners.add(set);
    set(connection);
    return () => listeners.delete(set);
  }, []);
  return now;
}

const FIRST = 500;
const LONGEST = 3000;

/** Listen to a stream: `{name: (data) => …}`. It is closed while nobody looks at the page, and goes on where it was. */
export function stream(path, handlers) {
  let source = null;
  let last = "";
  let wait = FIRST;
  let timer = 0;
  let ended = false;

  function open() {
    if (ended || source !== null || document.hidden) return;
    const address = new URL(path, location.href);
    if (last) address.searchParams.set("since", last);
    source = new EventSource(address);
    source.onopen = () => {
      wait = FIRST;
      tell("live");
    };
    source.onerror = () => again();
    for (const [name, handler] of Object.entries({ problem, ...handlers })) {
      source.addEventListener(name, (event) => {
        last = event.lastEventId || last;
        if (name !== "problem") tell("live");
        handler(JSON.parse(event.data));
      });
    }
  }

  function problem({ error, hint }) {
    tell("lost", error, hint);
  }

  async function again() {
    close();
    if (ended) return;
    timer = setTimeout(open, wait);
    wait = Math.min(wait * 2, LONGEST);
    try {
      await get("/api/runs?limit=1");
    } catch (error) {
      if (!ended) tell("lost", ...(error.status === 403 ? OTHER : [error.message, error.hint]));
    }
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  function looked() {
    if (document.hidden) close();
    else open();
  }

  document.addEventListener("visibilitychange", looked);
  open();
  return () => {
    ended = true;
    document.removeEventListener("visibilitychange", looked);
    close();
    tell("idle");
  };
}
