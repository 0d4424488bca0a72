CREATE TABLE attempts (
  seq INTEGER NOT NULL,
  attempt_id TEXT NOT NULL,
  run_id TEXT NOT NULL,
  node_id TEXT NOT NULL,
  "key" TEXT NOT NULL,
  number INTEGER NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  status TEXT NOT NULL,
  started_at FLOAT NOT NULL,
  finished_at FLOAT,
  usage TEXT NOT NULL,
  cost_usd FLOAT,
  error TEXT,
  reserved_tokens FLOAT DEFAULT 0 NOT NULL,
  reserved_usd FLOAT,
  row_hash TEXT,
  process INTEGER,
  PRIMARY KEY (seq),
  UNIQUE (attempt_id)
);
CREATE INDEX ix_attempts_run_node ON attempts (run_id, node_id);
CREATE INDEX ix_attempts_sent ON attempts ("key") WHERE status = 'sent';
CREATE TABLE gauges (
  process TEXT NOT NULL,
  account TEXT NOT NULL,
  at FLOAT NOT NULL,
  in_flight INTEGER NOT NULL,
  waiting INTEGER NOT NULL,
  max_concurrent INTEGER NOT NULL,
  rate FLOAT,
  requests_sent INTEGER NOT NULL,
  tokens_per_minute FLOAT,
  tokens FLOAT,
  tokens_used INTEGER NOT NULL,
  refused INTEGER NOT NULL,
  pause_s FLOAT NOT NULL,
  waits TEXT NOT NULL,
  PRIMARY KEY (process, account, at)
);
CREATE INDEX ix_gauges_at ON gauges (at);
CREATE TABLE learned (
  account TEXT NOT NULL,
  name TEXT NOT NULL,
  value FLOAT NOT NULL,
  learned_at FLOAT NOT NULL,
  PRIMARY KEY (account, name)
);
CREATE TABLE limit_scopes (
  scope TEXT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (scope)
);
CREATE TABLE memo (
  "key" TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  created_at FLOAT NOT NULL,
  size INTEGER NOT NULL,
  content_hash TEXT NOT NULL,
  answer TEXT NOT NULL,
  text_id INTEGER,
  PRIMARY KEY ("key")
);
CREATE INDEX ix_memo_created_at ON memo (created_at);
CREATE INDEX ix_memo_text_id ON memo (text_id) WHERE text_id IS NOT NULL;
CREATE TABLE nodes (
  run_id TEXT NOT NULL,
  node_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  kind TEXT NOT NULL,
  status TEXT NOT NULL,
  "key" TEXT NOT NULL,
  model TEXT NOT NULL,
  provider TEXT NOT NULL,
  cached BOOLEAN NOT NULL,
  attempts INTEGER NOT NULL,
  truncated BOOLEAN NOT NULL,
  usage TEXT NOT NULL,
  cost_usd FLOAT,
  queue_s FLOAT NOT NULL,
  call_s FLOAT NOT NULL,
  started_at FLOAT,
  finished_at FLOAT,
  parent TEXT DEFAULT '' NOT NULL,
  place INTEGER,
  epoch INTEGER DEFAULT 1 NOT NULL,
  content TEXT DEFAULT '' NOT NULL,
  counts TEXT,
  error TEXT,
  content_hash TEXT NOT NULL,
  parts TEXT NOT NULL,
  item TEXT,
  output TEXT NOT NULL,
  reused BOOLEAN DEFAULT 0 NOT NULL,
  row_hash TEXT,
  waits TEXT,
  change_no INTEGER DEFAULT 0 NOT NULL,
  PRIMARY KEY (run_id, node_id)
);
CREATE INDEX ix_nodes_change ON nodes (run_id, change_no);
CREATE INDEX ix_nodes_failed ON nodes (run_id, status, parent, place) WHERE status = 'failed' AND place IS NOT NULL;
CREATE INDEX ix_nodes_parent_place ON nodes (run_id, parent, place, epoch, status);
CREATE TABLE portions (
  run_id TEXT NOT NULL,
  process INTEGER NOT NULL,
  tokens FLOAT NOT NULL,
  usd FLOAT NOT NULL,
  PRIMARY KEY (run_id, process)
);
CREATE TABLE processes (
  process_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  token TEXT NOT NULL,
  pid INTEGER NOT NULL,
  host TEXT NOT NULL,
  machine TEXT NOT NULL,
  started TEXT NOT NULL,
  since FLOAT NOT NULL,
  lease_until FLOAT NOT NULL,
  ended_at FLOAT,
  UNIQUE (token)
);
CREATE INDEX ix_processes_ended_at ON processes (ended_at);
CREATE TABLE ranges (
  run_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  foreach TEXT NOT NULL,
  status TEXT NOT NULL,
  process INTEGER,
  leases INTEGER NOT NULL,
  items BLOB NOT NULL,
  PRIMARY KEY (run_id, number)
);
CREATE TABLE reports (
  report_id INTEGER NOT NULL,
  run_id TEXT NOT NULL,
  number INTEGER NOT NULL,
  process INTEGER NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (report_id)
);
CREATE INDEX ix_reports_run_id ON reports (run_id);
CREATE TABLE runs (
  seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  run_id TEXT NOT NULL,
  workflow TEXT NOT NULL,
  path TEXT NOT NULL,
  status TEXT NOT NULL,
  started_at FLOAT NOT NULL,
  finished_at FLOAT,
  provider TEXT NOT NULL,
  tenant TEXT DEFAULT '' NOT NULL,
  epoch INTEGER NOT NULL,
  owner_pid INTEGER,
  owner_host TEXT,
  owner_since FLOAT,
  output_offset INTEGER,
  inputs TEXT NOT NULL,
  options TEXT NOT NULL,
  stats TEXT NOT NULL,
  error TEXT,
  outputs_hash TEXT,
  outputs TEXT,
  snapshot TEXT NOT NULL,
  snapshot_hash TEXT,
  row_hash TEXT,
  process INTEGER,
  UNIQUE (run_id)
);
CREATE INDEX ix_runs_running ON runs (seq) WHERE status = 'running';
CREATE INDEX ix_runs_started_at ON runs (started_at);
CREATE INDEX ix_runs_unfinished ON runs (seq) WHERE status <> 'succeeded';
CREATE INDEX ix_runs_workflow_seq ON runs (workflow, seq);
CREATE TABLE shares (
  scope TEXT NOT NULL,
  process INTEGER NOT NULL,
  until FLOAT NOT NULL,
  state TEXT NOT NULL,
  PRIMARY KEY (scope, process)
);
CREATE TABLE tags (
  run_id TEXT NOT NULL,
  tag TEXT NOT NULL,
  PRIMARY KEY (run_id, tag)
);
CREATE INDEX ix_tags_tag ON tags (tag);
CREATE TABLE texts (
  text_id INTEGER NOT NULL,
  run_seq INTEGER NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (text_id)
);
CREATE INDEX ix_texts_run_seq ON texts (run_seq);
CREATE TABLE totals (
  run_id TEXT NOT NULL,
  changes INTEGER DEFAULT 0 NOT NULL,
  last_seq INTEGER DEFAULT 0 NOT NULL,
  running INTEGER DEFAULT 0 NOT NULL,
  waiting INTEGER DEFAULT 0 NOT NULL,
  succeeded INTEGER DEFAULT 0 NOT NULL,
  failed INTEGER DEFAULT 0 NOT NULL,
  skipped INTEGER DEFAULT 0 NOT NULL,
  blocked INTEGER DEFAULT 0 NOT NULL,
  cancelled INTEGER DEFAULT 0 NOT NULL,
  requests FLOAT DEFAULT 0 NOT NULL,
  input_tokens FLOAT DEFAULT 0 NOT NULL,
  output_tokens FLOAT DEFAULT 0 NOT NULL,
  cached_input_tokens FLOAT DEFAULT 0 NOT NULL,
  reasoning_tokens FLOAT DEFAULT 0 NOT NULL,
  cache_write_tokens FLOAT DEFAULT 0 NOT NULL,
  no_input_tokens FLOAT DEFAULT 0 NOT NULL,
  no_output_tokens FLOAT DEFAULT 0 NOT NULL,
  no_cached_input_tokens FLOAT DEFAULT 0 NOT NULL,
  no_reasoning_tokens FLOAT DEFAULT 0 NOT NULL,
  no_cache_write_tokens FLOAT DEFAULT 0 NOT NULL,
  known_usd FLOAT DEFAULT 0 NOT NULL,
  unpriced FLOAT DEFAULT 0 NOT NULL,
  unknown FLOAT DEFAULT 0 NOT NULL,
  reserved_tokens FLOAT DEFAULT 0 NOT NULL,
  reserved_usd FLOAT DEFAULT 0 NOT NULL,
  unreserved FLOAT DEFAULT 0 NOT NULL,
  PRIMARY KEY (run_id)
);
CREATE TABLE waits (
  run_id TEXT NOT NULL,
  node_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  token TEXT NOT NULL,
  due_at FLOAT,
  payload TEXT NOT NULL,
  value TEXT,
  PRIMARY KEY (run_id, node_id),
  UNIQUE (token)
);
CREATE INDEX ix_waits_due_at ON waits (due_at);
CREATE TABLE alembic_version (
  version_num VARCHAR(32) NOT NULL,
  PRIMARY KEY (version_num)
);
