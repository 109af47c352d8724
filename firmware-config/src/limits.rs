//! Ceilings: they size fixed-capacity types and refuse what is larger. Choices below them are configuration.

use core::time::Duration;

/// Longest `{client}` topic segment, in bytes (protocol.md).
pub const CLIENT_MAX: usize = 64;
/// Longest request `id` and Correlation Data, in bytes (protocol.md).
pub const ID_MAX: usize = 64;
/// Longest configured `base_topic` and `node`, in bytes each.
pub const BASE_TOPIC_MAX: usize = 128;
/// Most requests that may wait, whatever the configuration says.
pub const QUEUE_MAX: usize = 256;
/// Largest payload of a request if the configuration does not say, in bytes.
pub const PAYLOAD_DEFAULT: usize = 256 * 1024;
/// Largest `max_payload_bytes` that may be configured.
pub const PAYLOAD_MAX: usize = 4 * 1024 * 1024;
/// Tokens in one KV page, across all layers.
pub const PAGE_TOKENS: usize = 32;
/// Most KV pages of an arena, which are 131,072 tokens. It sizes page tables and the prefix index.
pub const PAGES_MAX: usize = 4096;
/// Most tokens of a chunk of a prompt, and of a step of a GPU. A cancel waits for at most one step.
pub const CHUNK_TOKENS: usize = 64;
/// Most tokens in one step of the processor: a chunk of a prompt for which nobody waits, where such a chunk takes little time. The
/// scratch memory of a step grows with it (`128 * ff * 4` bytes: 4.6 MB on the 1.5B).
pub const STEP_TOKENS: usize = 2 * CHUNK_TOKENS;
/// Most sequences in one step.
pub const STREAMS_MAX: usize = 8;
/// Most tokens of a draft. With the token before it they are as many columns, and rows of logits, as [`STREAMS_MAX`] streams
/// have.
pub const DRAFT_MAX: usize = STREAMS_MAX - 1;
/// Most named sessions in memory, of all clients. The others are in files, or are refused where there are no files.
pub const SESSIONS_MAX: usize = 1024;
/// Most named sessions in memory of one client.
pub const SESSIONS_PER_CLIENT: usize = 128;
/// Text of all sessions in memory together, in bytes.
pub const SESSION_TEXT_MAX: usize = 8 * 1024 * 1024;
/// Text of the sessions of one client in memory, in bytes.
pub const SESSION_TEXT_PER_CLIENT: usize = 1024 * 1024;
/// Most files of sessions, of all clients.
pub const SNAPSHOTS_MAX: usize = 4096;
/// Most files of sessions of one client.
pub const SNAPSHOTS_PER_CLIENT: usize = 256;
/// All files of sessions together, in bytes.
pub const SNAPSHOT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// The session files of one client together, in bytes.
pub const SNAPSHOT_BYTES_PER_CLIENT: u64 = SNAPSHOT_BYTES_MAX / 8;
/// Longest name of a session, in bytes; the characters are those of a client's segment.
pub const SESSION_NAME_MAX: usize = 64;
/// The longest that anybody waits for the driver of a GPU to do one thing, after which the GPU is given up: while a model is
/// loaded, a step whose kernels are compiled first.
pub const DEVICE_WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest that it may take to open a GPU, and to take a matrix. Within ten seconds the host's processor must go on.
pub const DEVICE_WAIT: Duration = Duration::from_secs(8);
/// Most threads of the inference pool.
pub const THREADS_MAX: usize = 64;
/// Most stop strings of a request.
pub const STOPS_MAX: usize = 16;
/// Longest stop string, in bytes.
pub const STOP_BYTES_MAX: usize = 256;
/// Most tools of a request (protocol.md).
pub const TOOLS_MAX: usize = 128;
/// The schemas of a request's tools together, in bytes (protocol.md).
pub const TOOL_SCHEMAS_MAX: usize = 64 * 1024;
/// Longest name of a tool, in bytes.
pub const TOOL_NAME_MAX: usize = 64;
/// Most calls of one answer (protocol.md).
pub const TOOL_CALLS_MAX: usize = 16;
/// Levels of lists and objects within each other that a tool's schema or a call's arguments may have.
pub const TOOL_LEVELS_MAX: usize = 64;
/// Most bytes of a schema or a pattern of an answer (protocol.md).
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Levels of lists and objects within each other that a schema may have (protocol.md), and that an answer by it may have.
pub const SCHEMA_LEVELS_MAX: usize = 64;
/// Bytes of the tables that masks are made with, for a vocabulary of 151,936 tokens: 32.4 MB, and 41.7 MB while they are made
/// (`tests/constraint_memory`).
pub const CONSTRAINER_BYTES: u64 = 44_000_000;
/// Most bytes of one constraint, by the schemas that cost most: 4.4 MB while 250 formats are compiled, and 0.5 KB for each
/// state of the lexer (`tests/constraint_memory`).
pub const CONSTRAINT_BYTES_MAX: u64 = 16_000_000;
/// Most states of the lexer of one constraint. A counted character needs four to five, because letters beyond ASCII have several
/// bytes: as many as `maxLength: 2000` has.
pub const CONSTRAINT_STATES_MAX: usize = 20_000;
/// Most symbols of the grammar of one constraint.
pub const GRAMMAR_SYMBOLS_MAX: usize = 50_000;
/// Most bytes of last frames that are kept to answer repeated requests, of all clients together.
pub const DEDUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most public keys that are asked whether one of them made a signature.
pub const KEYS_MAX: usize = 4;
/// Longest answer of a tool of the daemon's own that is read, in bytes.
pub const TOOL_ANSWER_MAX: usize = 16 * 1024;
/// Most calls of the daemon's own tools in flight, of all clients.
pub const CALLS_IN_FLIGHT_MAX: usize = 64;
/// Most calls of the daemon's own tools in flight of one client: as many as one answer may have.
pub const CALLS_IN_FLIGHT_PER_CLIENT: usize = TOOL_CALLS_MAX;
