// Where the page is: `#/runs/ID?node=NODE`. A link to a place is a plain link, and Back works.
import { useEffect, useState } from "preact/hooks";

/** `{path: ["runs", ID], query: URLSearchParams}` of the address now. */
export function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

/** The link to a place: `link(["runs", id], {node})`; what is null or empty in the query is left out. */
export function link(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given).toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

/** Go to a link; `replace`: without a step for Back. */
export function navigate(to, { replace = false } = {}) {
  if (!replace) {
    location.hash = to;
    return;
  }
  history.replaceState(null, "", to);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** The link to here with another query: `withQuery({view: "items"})`. */
export function withQuery(changes) {
  const { path, query } = route();
  return link(path, { ...Object.fromEntries(query), ...changes });
}

export function useRoute() {
  const [now, set] = useState(route);
  useEffect(() => {
    const changed = () => set(route());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return now;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
