//! Every configuration key, once. What the file may hold, the `GLOWPLUG_…` variables, the messages of `config check` and
//! the reference page all follow from this table: a new key is one entry here and one use in [`super::check`].

use std::net::SocketAddr;

use glowplug_firmware_config::board::Board;
use glowplug_firmware_config::limits::{
    KEYS_MAX, PAGE_TOKENS, PAGES_MAX, PAYLOAD_DEFAULT, PAYLOAD_MAX, QUEUE_MAX, STREAMS_MAX,
    THREADS_MAX, TOOLS_MAX,
};
use glowplug_model::engine::{KvFormats, Share, Thinking};

use super::BrokerAddress;
use super::format::OwnFormat;
use super::kinds::{
    Entry, Key, Keys, Kind, List, Number, OneOf, Optional, OwnThought, Parsed, Path, Size, Switch,
    Text, Texts, Thought,
};
use super::values;

/// Defines a constant for each key, and the list of them in the order of the page.
macro_rules! keys {
    ($($(#[doc = $about:literal])+ $constant:ident: $kind:ty = $name:literal, $value:expr;)+) => {
        $(pub(super) const $constant: Key<$kind> = Key {
            name: $name,
            about: concat!($($about),+),
            kind: $value,
        };)+

        /// Every key, in the order of the page.
        pub const KEYS: &[&str] = &[$($name),+];

        /// What the page says of every key.
        #[must_use]
        pub fn entries() -> Vec<Entry> {
            vec![$($constant.entry()),+]
        }

        /// Whether the value of this key is text even where it looks like a number or a table.
        pub(super) fn is_text(key: &str) -> bool {
            match key {
                $($name => <$kind as Kind>::TEXT,)+
                _ => false,
            }
        }
    };
}

keys! {
    /// The daemon's name, `{node}` in its topics; one topic level.
    NODE: Text = "node", Text { default: "the host name" };
    /// The topic levels before the node.
    BASE_TOPIC: Text = "base_topic", Text { default: "`glowplug`" };
    /// The board that this machine is, which says how much memory is ours and which cores are fast.
    BOARD: Parsed<Board> = "board", Parsed { parse: values::board, form: "a name of a board file", default: "found out" };
    /// The broker. Absent, the daemon brings its own.
    MQTT_URL: Parsed<BrokerAddress> = "mqtt.url", Parsed { parse: values::server, form: "`mqtt://host:port`, or `mqtts://` for TLS", default: "the embedded broker" };
    /// A PEM file with the authorities that may have issued the broker's certificate.
    MQTT_CA_FILE: Path = "mqtt.ca_file", Path { default: "the system's" };
    /// A PEM file with the daemon's certificate, for a broker that wants one, and those of its chain.
    MQTT_CERT_FILE: Path = "mqtt.cert_file", Path { default: "none" };
    /// A PEM file with the private key of that certificate.
    MQTT_KEY_FILE: Path = "mqtt.key_file", Path { default: "none" };
    /// The name that the broker's certificate must have.
    MQTT_SERVER_NAME: Text = "mqtt.server_name", Text { default: "the host in `mqtt.url`" };
    /// The daemon's user at that broker.
    MQTT_USERNAME: Text = "mqtt.username", Text { default: "none" };
    /// A file whose first line is that user's password.
    MQTT_PASSWORD_FILE: Path = "mqtt.password_file", Path { default: "none" };
    /// Seconds between two `metrics`.
    MQTT_METRICS_INTERVAL_S: Number = "mqtt.metrics_interval_s", Number { min: 1, max: 3600, default: 10 };
    /// Prefixes below which a Response Topic is honoured, besides the client's own.
    MQTT_RESPONSE_TOPIC_ALLOW: Texts = "mqtt.response_topic_allow", Texts { max: 16, of: "prefixes" };
    /// Where the embedded broker listens. Anything but loopback needs `broker.tls` or `broker.plaintext`.
    BROKER_LISTEN: Parsed<SocketAddr> = "broker.listen", Parsed { parse: values::listen, form: "`address:port`", default: "`127.0.0.1:1883`" };
    /// A PEM file with the certificate of the embedded broker and those of its chain: with it, clients speak TLS.
    BROKER_TLS_CERT_FILE: Path = "broker.tls.cert_file", Path { default: "none" };
    /// A PEM file with the private key of that certificate.
    BROKER_TLS_KEY_FILE: Path = "broker.tls.key_file", Path { default: "none" };
    /// A PEM file with authorities, one of which must have issued each client's certificate.
    BROKER_TLS_CA_FILE: Path = "broker.tls.ca_file", Path { default: "none: clients need no certificate" };
    /// Lets it listen beyond loopback without TLS: passwords and conversations can be read on the way.
    BROKER_PLAINTEXT: Switch = "broker.plaintext", Switch;
    /// Users of the embedded broker, each with the topics of the client of its name: a name and a hash of Argon2id a line. It is
    /// read again when it changes.
    BROKER_USERS_FILE: Path = "broker.users_file", Path { default: "none: the owner's own programs" };
    /// The group of daemons on one broker with which this one serves `{base}/any/…`; 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
    POOL_GROUP: Text = "pool.group", Text { default: "none" };
    /// Lets Home Assistant find the daemon by itself: its numbers, a notifier that asks, an event for each answer.
    HOMEASSISTANT_DISCOVERY: Switch = "homeassistant.discovery", Switch;
    /// The GGUF file that is served.
    MODEL_PATH: Path = "model.path", Path { default: "the board's model" };
    /// The same by its name in the catalogue; not together with `model.path`.
    MODEL_NAME: Text = "model.name", Text { default: "the board's model" };
    /// A chat template instead of the file's own, or where it has none; not together with `trust.keys`.
    MODEL_TEMPLATE_FILE: Path = "model.template_file", Path { default: "the file's own" };
    /// Tokens of a conversation with its answer.
    MODEL_CONTEXT: Optional = "model.context", Optional { min: 32, max: CONTEXT_MAX, default: "4096, or the model's own if that is smaller" };
    /// The processor that computes: `cpu`; in a program that was built with feature `wgpu` also `gpu`, or `auto`, the faster one.
    MODEL_DEVICE: Text = "model.device", Text { default: "`cpu`" };
    /// Resident memory, all told, that the daemon stays within.
    MEMORY_BUDGET: Size = "memory.budget", Size { default: "what control group, free memory and board leave" };
    /// How the KV cache is stored; `q8_0/q4_0` is for keys and for values.
    MEMORY_KV_FORMAT: Parsed<KvFormats> = "memory.kv_format", Parsed { parse: values::kv_formats, form: "a format, or two", default: "`q8_0`, where the model's heads can have it" };
    /// Pages of the KV cache, of 32 tokens each.
    MEMORY_KV_PAGES: Optional = "memory.kv_pages", Optional { min: 1, max: PAGES_MAX as u64, default: "what the budget leaves, for `engine.max_streams` contexts" };
    /// Keeps the KV pages from being swapped out.
    MEMORY_LOCK: Switch = "memory.lock", Switch;
    /// Who finds the computed pages of a prompt: its own client alone, so that nothing tells others of it, or all.
    MEMORY_SHARE: OneOf<Share> = "memory.share", OneOf { of: &[("client", Share::Client), ("all", Share::All)] };
    /// Requests that are answered at the same time.
    ENGINE_MAX_STREAMS: Number = "engine.max_streams", Number { min: 1, max: STREAMS_MAX as u64, default: 4 };
    /// Requests that wait. One client fills at most half of it, and takes the last place only as its first.
    ENGINE_QUEUE: Number = "engine.queue", Number { min: 1, max: QUEUE_MAX as u64, default: 16 };
    /// Threads that compute prompts.
    ENGINE_THREADS_PREFILL: Optional = "engine.threads.prefill", Optional { min: 1, max: THREADS_MAX as u64, default: "what `glowplug tune` found, else the fast cores" };
    /// Threads that compute answers.
    ENGINE_THREADS_DECODE: Optional = "engine.threads.decode", Optional { min: 1, max: THREADS_MAX as u64, default: "what `glowplug tune` found, else the fast cores" };
    /// Bytes of the longest request.
    ENGINE_MAX_PAYLOAD_BYTES: Number = "engine.max_payload_bytes", Number { min: 1024, max: PAYLOAD_MAX as u64, default: PAYLOAD_DEFAULT as u64 };
    /// Tokens of an answer with its thought, where a request does not say.
    ENGINE_MAX_TOKENS: Number = "engine.max_tokens", Number { min: 1, max: 1 << 20, default: 1024 };
    /// Milliseconds for which tokens are put together into one frame.
    ENGINE_CHUNK_MS: Number = "engine.chunk_ms", Number { min: 0, max: 10_000, default: 40 };
    /// Seconds for which a finished request's final frame is kept for its repetition.
    ENGINE_DEDUP_WINDOW_S: Number = "engine.dedup_window_s", Number { min: 1, max: 86_400, default: 300 };
    /// How often a model goes on with the results of the daemon's own tools in one request.
    ENGINE_TOOLS_MAX_ROUNDS: Number = "engine.tools_max_rounds", Number { min: 1, max: 16, default: 4 };
    /// Whether the model thinks, for how many tokens, and whether clients see it; where a request does not say.
    ENGINE_THINKING: Thought = "engine.thinking", Thought { default: Thinking { enabled: true, budget: Some(512), visible: false } };
    /// The name by which a request asks for the preset: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
    PRESETS_NAME: Text = "presets[].name", Text { default: "none, it must be there" };
    /// The system text, of at most 16 KiB, that comes before what the client says.
    PRESETS_SYSTEM: Text = "presets[].system", Text { default: "none" };
    /// A file with the system text instead.
    PRESETS_SYSTEM_FILE: Path = "presets[].system_file", Path { default: "none" };
    /// The language of the answers: the system text ends with a sentence that asks for it.
    PRESETS_LANGUAGE: Text = "presets[].language", Text { default: "none" };
    /// Whose `ask` uses the preset, and who may name it; `*` stands for any characters. Of several the first is an `ask`'s.
    PRESETS_CLIENTS: Texts = "presets[].clients", Texts { max: 64, of: "clients" };
    /// Whether the model thinks, and for how many tokens, where a request does not say.
    PRESETS_THINKING: OwnThought = "presets[].thinking", OwnThought;
    /// Most tokens of an answer with its thought; a request may ask for fewer.
    PRESETS_MAX_TOKENS: Optional = "presets[].max_tokens", Optional { min: 1, max: 1 << 20, default: "`engine.max_tokens`, and no limit" };
    /// What the answers are held to, where a request does not say; checked when the configuration is read.
    PRESETS_RESPONSE_FORMAT: OwnFormat = "presets[].response_format", OwnFormat;
    /// Names of the daemon's own tools that the model may call, as far as they are for the client; the daemon runs them.
    PRESETS_TOOLS: Texts = "presets[].tools", Texts { max: TOOLS_MAX, of: "tools" };
    /// The name by which a model calls the tool: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    TOOLS_NAME: Text = "tools[].name", Text { default: "none, it must be there" };
    /// What the tool does, in words for the model.
    TOOLS_DESCRIPTION: Text = "tools[].description", Text { default: "none" };
    /// The JSON schema of its arguments, an object, as text.
    TOOLS_PARAMETERS: Text = "tools[].parameters", Text { default: "no arguments" };
    /// The topic of a call. A level `{name}` stands for a required property whose values an `enum` lists.
    TOOLS_TOPIC: Text = "tools[].topic", Text { default: "none, it must be there" };
    /// The payload, a JSON value as text; a string in it that is exactly `{name}` becomes the value of that property.
    TOOLS_PAYLOAD: Text = "tools[].payload", Text { default: "the arguments" };
    /// A payload of plain text instead, with `{name}` for required properties of an enum, numbers or truth values.
    TOOLS_PAYLOAD_TEXT: Text = "tools[].payload_text", Text { default: "none" };
    /// Where the tool answers. Absent, the answer is what comes on the Response Topic in time, else that it is done.
    TOOLS_REPLY_TOPIC: Text = "tools[].reply_topic", Text { default: "none" };
    /// Milliseconds for which an answer is waited for.
    TOOLS_TIMEOUT_MS: Number = "tools[].timeout_ms", Number { min: 1, max: 60_000, default: 2000 };
    /// Whose requests may use the tool; `*` stands for any characters.
    TOOLS_CLIENTS: Texts = "tools[].clients", Texts { max: 64, of: "clients" };
    /// Whether a call goes to the client first, and runs when it comes back confirmed.
    TOOLS_CONFIRM: Switch = "tools[].confirm", Switch;
    /// Makes tools of the discovery documents that devices publish for Home Assistant.
    TOOLS_FROM_HOMEASSISTANT: Switch = "tools_from.homeassistant", Switch;
    /// Makes tools of the list of devices that Zigbee2MQTT publishes.
    TOOLS_FROM_ZIGBEE2MQTT: Switch = "tools_from.zigbee2mqtt", Switch;
    /// The filters below which these tools may publish.
    TOOLS_FROM_TOPICS: Texts = "tools_from.topics", Texts { max: 64, of: "filters" };
    /// Whose requests may use these tools; `*` stands for any characters.
    TOOLS_FROM_CLIENTS: Texts = "tools_from.clients", Texts { max: 64, of: "clients" };
    /// Of which domains tools are made, those that matter most first: `light`, `switch`, `fan`, `scene` where nothing is written, and
    /// `cover`, `lock`, `valve`, `siren`, `button`, `alarm_control_panel`.
    TOOLS_FROM_DOMAINS: Texts = "tools_from.domains", Texts { max: 10, of: "domains" };
    /// Where conversations are kept over restarts, made with mode 0700. Where it cannot be written, all goes on without.
    SESSIONS_DIR: Path = "sessions.dir", Path { default: "nowhere" };
    /// Keys in 64 hexadecimal digits a line, the newest first: files of conversations are encrypted with the first, and read with all of
    /// them. It is read again when it changes.
    SESSIONS_KEY_FILE: Path = "sessions.key_file", Path { default: "none: they are not encrypted" };
    /// Seconds after which a conversation that nobody went on with is dropped.
    SESSIONS_EXPIRE_S: Number = "sessions.expire_s", Number { min: 1, max: 365 * 86_400, default: 86_400 };
    /// Lets a conversation that outgrows the context forget its oldest turns; else its request is refused.
    SESSIONS_WINDOW: Switch = "sessions.window", Switch;
    /// Public keys of Ed25519 in hexadecimal: only models that one of them signed are served.
    TRUST_KEYS: Keys = "trust.keys", Keys { max: KEYS_MAX, parse: values::trust_keys };
}

/// Tools of the daemon's own.
pub(super) const TOOLS: List = List {
    name: "tools",
    max: TOOLS_MAX,
};

/// What plain text and small clients get.
pub(super) const PRESETS: List = List {
    name: "presets",
    max: 16,
};

/// Most tokens of `model.context`: what the page table of the KV arena can name.
const CONTEXT_MAX: u64 = (PAGES_MAX * PAGE_TOKENS) as u64;
