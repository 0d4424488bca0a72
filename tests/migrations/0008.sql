-- A database as flowllm wrote it at revision 0008. Frozen: never to be changed.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0008');
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
	reserved_usd FLOAT, row_hash TEXT, 
	PRIMARY KEY (seq), 
	UNIQUE (attempt_id)
);
INSERT INTO "attempts" VALUES(1,'run1/headline/1','run1','headline','00000000000000000000000000000000000000000000000000000000headline',1,'simulated','m','succeeded',1700000001.0,1700000002.0,'{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',0.0001,NULL,100.0,0.0005,'78e333f70a2c9ff78ea770a4829e7aef32c652b64e1161ee9577a5cfadc64c08');
INSERT INTO "attempts" VALUES(2,'run1/intro/1','run1','intro','00000000000000000000000000000000000000000000000000000000000intro',1,'simulated','m','succeeded',1700000001.0,1700000002.0,'{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',0.0001,NULL,100.0,0.0005,'4705158708b2adbb283ec3d613c5fe0cd6e0d907810f9f93fba8725fabf13edf');
INSERT INTO "attempts" VALUES(3,'run2/headline/1','run2','headline','00000000000000000000000000000000000000000000000000000000headline',1,'simulated','m','succeeded',1700000001.0,1700000002.0,'{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',0.0001,NULL,100.0,0.0005,'8daf14823074deadbc05fe67c3d3ae888b2dffdb59d8f73b4fb4e69c38b03300');
INSERT INTO "attempts" VALUES(4,'run2/intro/1','run2','intro','00000000000000000000000000000000000000000000000000000000000intro',1,'simulated','m','sent',1700000001.0,NULL,'{"input_tokens":0,"output_tokens":0,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',NULL,NULL,100.0,0.0005,'abc446db89d197f6b322549221b83633f43adad30a57e458bbf213747564add7');
CREATE TABLE gauges (
	process TEXT NOT NULL, 
	account TEXT NOT NULL, 
	at FLOAT NOT NULL, 
	in_flight INTEGER NOT NULL, 
	waiting INTEGER NOT NULL, 
	rate FLOAT, 
	tokens FLOAT, 
	pause_s FLOAT NOT NULL, 
	PRIMARY KEY (process, account, at)
);
CREATE TABLE learned (
	account TEXT NOT NULL, 
	name TEXT NOT NULL, 
	value FLOAT NOT NULL, 
	learned_at FLOAT NOT NULL, 
	PRIMARY KEY (account, name)
);
INSERT INTO "learned" VALUES('a','requests_per_second',1.5,1700000003.0);
CREATE TABLE memo (
	"key" TEXT NOT NULL, 
	provider TEXT NOT NULL, 
	model TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	size INTEGER NOT NULL, 
	content_hash TEXT NOT NULL, 
	answer TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "memo" VALUES('00000000000000000000000000000000000000000000000000000000headline','simulated','m',1700000002.0,198,'c36981811c29d972fc72a75495bbc50ff35610bd09db616fdef7e949f473e499','{"value":"Caf\u00e9 \ud800 \u0000","model":"m","provider":"simulated","usage":{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0},"cost_usd":0.0001,"truncated":false}');
INSERT INTO "memo" VALUES('00000000000000000000000000000000000000000000000000000000000intro','simulated','m',1700000002.0,198,'c36981811c29d972fc72a75495bbc50ff35610bd09db616fdef7e949f473e499','{"value":"Caf\u00e9 \ud800 \u0000","model":"m","provider":"simulated","usage":{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0},"cost_usd":0.0001,"truncated":false}');
CREATE TABLE "nodes" (
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
	reused BOOLEAN DEFAULT 0 NOT NULL, row_hash TEXT, waits TEXT, change_no INTEGER DEFAULT 0 NOT NULL, 
	PRIMARY KEY (run_id, node_id)
);
INSERT INTO "nodes" VALUES('run1','headline',1,'prompt','succeeded','00000000000000000000000000000000000000000000000000000000headline','m','simulated',0,1,0,'{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'7926a8843e82161d6a4a959f2e4c406c1b5949f8ebad3772a03fc8b211b189a9','{"body":{"model":"m","messages":[{"role":"user","content":"Ask headline."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',1,'149dbc249625fa9301aa4cc2354e17e3c9ee6970906c7466e7eb098beef4a3d3',NULL,1);
INSERT INTO "nodes" VALUES('run1','intro',2,'prompt','succeeded','00000000000000000000000000000000000000000000000000000000000intro','m','simulated',0,1,0,'{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'6b489e2418fbdba9e92e4eedd1f28c9ef1d635e2d91167cbafa6ec8a9c1908ee','{"body":{"model":"m","messages":[{"role":"user","content":"Ask intro."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',0,'635b298b5330dbc0ade70f9a6457e22ec7e668c0fabeb75c1712a746da72c1a6',NULL,2);
INSERT INTO "nodes" VALUES('run2','headline',1,'prompt','succeeded','00000000000000000000000000000000000000000000000000000000headline','m','simulated',0,1,0,'{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'7926a8843e82161d6a4a959f2e4c406c1b5949f8ebad3772a03fc8b211b189a9','{"body":{"model":"m","messages":[{"role":"user","content":"Ask headline."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',1,'38d7e848ef099bca7e4b92c2bd06bc136ec1a09c3a7744101720c699fa9ff814',NULL,1);
INSERT INTO "nodes" VALUES('run2','intro',2,'prompt','failed','00000000000000000000000000000000000000000000000000000000000intro','m','simulated',0,1,0,'{"input_tokens":20,"output_tokens":60,"cached_input_tokens":0,"reasoning_tokens":0,"cache_write_tokens":0}',0.0001,0.1,1.2,1700000001.0,1700000002.0,'',NULL,1,'',NULL,NULL,'a8617093487297be6ca662bc382d6ba27099a64941dae1b99dee273c108ba4f6','{"body":{"model":"m","messages":[{"role":"user","content":"Ask intro."}]}}',NULL,'{"text":"Caf\u00e9 \ud800 \u0000","n":1180591620717411303424}',0,'cdaebde8a5621e08b5ea4e6044760dedee1861b9d5e04da7b83ad168d1320276',NULL,2);
CREATE TABLE "runs" (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	run_id TEXT NOT NULL, 
	workflow TEXT NOT NULL, 
	path TEXT NOT NULL, 
	status TEXT NOT NULL, 
	started_at FLOAT NOT NULL, 
	finished_at FLOAT, 
	provider TEXT NOT NULL, 
	tenant TEXT DEFAULT ('') NOT NULL, 
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
	snapshot TEXT NOT NULL, snapshot_hash TEXT, row_hash TEXT, 
	UNIQUE (run_id)
);
INSERT INTO "runs" VALUES(1,'run1','blog','/flows/blog.yaml','succeeded',1700000000.0,1700000009.0,'simulated','acme',1,NULL,NULL,NULL,NULL,'{"topic":"tea"}','{"limit":null}','{}',NULL,'4906f10e0c85023d26beb6876e134aad00354936dc15d05f79781221312245b8','{"b":1,"a":"x"}','{"/flows/blog.yaml":"steps: {}\n"}',NULL,NULL);
INSERT INTO "runs" VALUES(2,'run2','blog','/flows/blog.yaml','failed',1700000000.0,1700000009.0,'simulated','acme',1,NULL,NULL,NULL,NULL,'{"topic":"tea"}','{"limit":null}','{}',NULL,'4906f10e0c85023d26beb6876e134aad00354936dc15d05f79781221312245b8','{"b":1,"a":"x"}','{"/flows/blog.yaml":"steps: {}\n"}',NULL,NULL);
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
CREATE INDEX ix_runs_workflow_seq ON runs (workflow, seq);
CREATE INDEX ix_nodes_failed ON nodes (run_id, status, parent, place) WHERE status = 'failed' AND place IS NOT NULL;
CREATE INDEX ix_nodes_change ON nodes (run_id, change_no);
CREATE INDEX ix_runs_running ON runs (seq) WHERE status = 'running';
CREATE INDEX ix_waits_due_at ON waits (due_at);
CREATE INDEX ix_gauges_at ON gauges (at);
CREATE INDEX ix_nodes_parent_place ON nodes (run_id, parent, place, epoch, status);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',3);
COMMIT;
PRAGMA application_id=1179405389;
