-- A database as flowllm wrote it at revision 0014. Frozen: never to be changed.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
  version_num VARCHAR(32) NOT NULL,
  PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0014');
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
  row_hash TEXT, process INTEGER,
  PRIMARY KEY (seq),
  UNIQUE (attempt_id)
);
INSERT INTO "attempts" VALUES(1,'run1/headline/1','run1','headline','00000000000000000000000000000000000000000000000000000000headline',1,'simulated','m','succeeded',1700000001.0,1700000002.0,'[20,60,0,0,0]',0.0001,NULL,100.0,0.0005,'WG/TcDIGV0nlnn1xGPMdEQ',NULL);
INSERT INTO "attempts" VALUES(2,'run1/intro/1','run1','intro','00000000000000000000000000000000000000000000000000000000000intro',1,'simulated','m','succeeded',1700000001.0,1700000002.0,'[20,60,0,0,0]',0.0001,NULL,100.0,0.0005,'dSHSkQmhWCuzTxbL3tU+AA',NULL);
INSERT INTO "attempts" VALUES(3,'run2/headline/1','run2','headline','00000000000000000000000000000000000000000000000000000000headline',1,'simulated','m','succeeded',1700000001.0,1700000002.0,'[20,60,0,0,0]',0.0001,NULL,100.0,0.0005,'leJx4H7+KLWNnbEpjCWblg',NULL);
INSERT INTO "attempts" VALUES(4,'run2/intro/1','run2','intro','00000000000000000000000000000000000000000000000000000000000intro',1,'simulated','m','sent',1700000001.0,NULL,'[0,0,0,0,0]',NULL,NULL,100.0,0.0005,'GAZE+o4zrEIb1RuvcBN9BA',NULL);
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
INSERT INTO "gauges" VALUES('host:1','simulated',1700000001.0,1,0,10,NULL,2,NULL,NULL,160,0,0.0,'{}');
CREATE TABLE learned (
  account TEXT NOT NULL,
  name TEXT NOT NULL,
  value FLOAT NOT NULL,
  learned_at FLOAT NOT NULL,
  PRIMARY KEY (account, name)
);
INSERT INTO "learned" VALUES('a','requests_per_second',1.5,1700000003.0);
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
INSERT INTO "memo" VALUES('00000000000000000000000000000000000000000000000000000000headline','simulated','m',1700000002.0,221,'I+5M8oIdCXKDwNZg7Yd4pQ','{"value":"Caf\u00e9 \ud800 \u0000","model":"m","provider":"simulated","usage":{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0},"cost_usd":0.0001,"truncated":false}',NULL);
INSERT INTO "memo" VALUES('00000000000000000000000000000000000000000000000000000000000intro','simulated','m',1700000002.0,221,'UUrHC+3hkiUS9Rcaw+wmWw','{"value":"Caf\u00e9 \ud800 \u0000","model":"m","provider":"simulated","usage":{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0},"cost_usd":0.0001,"truncated":false}',NULL);
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
INSERT INTO "nodes" VALUES('run1','headline',1,'prompt','succeeded','00000000000000000000000000000000000000000000000000000000headline','m','simulated',0,1,0,'[20,60,0,0,0]',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'eSaohD6CFh1qSpWfLkxAbA','{"body":{"model":"m","messages":[{"role":"user","content":"Ask headline."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',1,'dalqqCUG+u6tf5RVx77Mjg',NULL,1);
INSERT INTO "nodes" VALUES('run1','intro',2,'prompt','succeeded','00000000000000000000000000000000000000000000000000000000000intro','m','simulated',0,1,0,'[20,60,0,0,0]',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'a0ieJBj726npLk7t0fKMng','{"body":{"model":"m","messages":[{"role":"user","content":"Ask intro."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',0,'lASDw5I0dxDMLR0JeHD1LA',NULL,2);
INSERT INTO "nodes" VALUES('run2','headline',1,'prompt','succeeded','00000000000000000000000000000000000000000000000000000000headline','m','simulated',0,1,0,'[20,60,0,0,0]',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'eSaohD6CFh1qSpWfLkxAbA','{"body":{"model":"m","messages":[{"role":"user","content":"Ask headline."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',1,'S6muVPApbvOQHIXlhwMvmQ',NULL,1);
INSERT INTO "nodes" VALUES('run2','intro',2,'prompt','failed','00000000000000000000000000000000000000000000000000000000000intro','m','simulated',0,1,0,'[20,60,0,0,0]',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'qGFwk0hyl75spmK8OC1rog','{"body":{"model":"m","messages":[{"role":"user","content":"Ask intro."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',0,'hoUC2FR3rlTKWao6+huANw',NULL,2);
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
INSERT INTO "processes" VALUES(1,'0123456789abcdef',1,'here','boot:1','1',100.0,110.0,105.0);
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
INSERT INTO "ranges" VALUES('run1',1,1,'each','open',NULL,0,X'00');
CREATE TABLE reports (
	report_id INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	process INTEGER NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (report_id)
);
INSERT INTO "reports" VALUES(1,'run1',1,1,'{}');
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
  row_hash TEXT, process INTEGER,
  UNIQUE (run_id)
);
INSERT INTO "runs" VALUES(1,'run1','blog','/flows/blog.yaml','succeeded',1700000000.0,1700000009.0,'simulated','acme',1,NULL,NULL,NULL,NULL,'{"topic":"tea"}','{"limit":null}','{}',NULL,'SQbxDgyFAj0mvraHbhNKrQ','{"b":1,"a":"x"}','{"/flows/blog.yaml":"steps: {}\n"}','/vZqpchUfrQPk/WGLlf+3w','lKsxpjA3dAjAAP3qWlV0ow',NULL);
INSERT INTO "runs" VALUES(2,'run2','blog','/flows/blog.yaml','failed',1700000000.0,1700000009.0,'simulated','acme',1,NULL,NULL,NULL,NULL,'{"topic":"tea"}','{"limit":null}','{}',NULL,'SQbxDgyFAj0mvraHbhNKrQ','{"b":1,"a":"x"}','{"/flows/blog.yaml":"steps: {}\n"}','/vZqpchUfrQPk/WGLlf+3w','6zOXMTOHHx9qeSI/ADlT/A',NULL);
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
CREATE TABLE texts (
  text_id INTEGER NOT NULL,
  run_seq INTEGER NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (text_id)
);
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
INSERT INTO "totals" VALUES('run1',2,2,0,0,2,0,0,0,0,2.0,40.0,120.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0002,0.0,0.0,0.0,0.0,0.0);
INSERT INTO "totals" VALUES('run2',2,2,0,0,1,1,0,0,0,2.0,20.0,60.0,0.0,0.0,0.0,1.0,1.0,1.0,1.0,1.0,0.0001,0.0,1.0,100.0,0.0005,0.0);
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
CREATE INDEX ix_attempts_run_node ON attempts (run_id, node_id);
CREATE INDEX ix_memo_created_at ON memo (created_at);
CREATE INDEX ix_memo_text_id ON memo (text_id) WHERE text_id IS NOT NULL;
CREATE INDEX ix_nodes_change ON nodes (run_id, change_no);
CREATE INDEX ix_nodes_failed ON nodes (run_id, status, parent, place) WHERE status = 'failed' AND place IS NOT NULL;
CREATE INDEX ix_nodes_parent_place ON nodes (run_id, parent, place, epoch, status);
CREATE INDEX ix_runs_running ON runs (seq) WHERE status = 'running';
CREATE INDEX ix_runs_unfinished ON runs (seq) WHERE status <> 'succeeded';
CREATE INDEX ix_runs_workflow_seq ON runs (workflow, seq);
CREATE INDEX ix_texts_run_seq ON texts (run_seq);
CREATE INDEX ix_waits_due_at ON waits (due_at);
CREATE INDEX ix_tags_tag ON tags (tag);
CREATE INDEX ix_runs_started_at ON runs (started_at);
CREATE INDEX ix_gauges_at ON gauges (at);
CREATE INDEX ix_processes_ended_at ON processes (ended_at);
CREATE INDEX ix_reports_run_id ON reports (run_id);
CREATE INDEX ix_attempts_sent ON attempts ("key") WHERE status = 'sent';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',3);
INSERT INTO "sqlite_sequence" VALUES('processes',1);
COMMIT;
PRAGMA application_id=1179405389;
