// Asks for what the first look at a run takes, while the other modules are still on their way.

/** Answers by their paths, each for whoever asks for it first. */
export const early = new Map();

const [, run, rest] = /^#\/runs\/([^/?]+)(.*)/.exec(location.hash) ?? [];
if (run) {
  const base = `/api/runs/${run}`;
  const drawn = rest.includes("view=") ? [] : [`${base}/graph`, `${base}/timeline?parent=&since=0`];
  for (const path of [base, `${base}/nodes`, ...drawn]) {
    const asked = fetch(path, { headers: { accept: "application/json" } });
    asked.catch(() => {}); // told by whoever takes it
    early.set(path, asked);
  }
}
