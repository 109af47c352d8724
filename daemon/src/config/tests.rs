#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::values::topic_level;
use super::*;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::text::Format;

mod presets;
mod tools;

fn load(text: &str) -> Result<Config, ConfigError> {
    Draft::from_toml(text)?.finish("host", PathBuf::from("/state"))
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let c = load("").unwrap();
    assert_eq!(
        (c.node.as_str(), c.base_topic.as_str()),
        ("host", "glowplug")
    );
    assert_eq!(c.mqtt.server, None);
    assert_eq!(c.listen, "127.0.0.1:1883".parse().unwrap());
    assert_eq!((c.engine.max_streams, c.engine.queue), (4, 16));
    assert_eq!(c.engine.max_payload_bytes, 262_144);
    assert_eq!(c.engine.chunk, Duration::from_millis(40));
    assert_eq!(
        c.engine.thinking,
        Thinking {
            enabled: true,
            budget: Some(512),
            visible: false
        }
    );
    assert_eq!(c.mqtt.metrics_interval, Duration::from_secs(10));
    assert_eq!(c.engine.max_streams, 4);
    assert_eq!((c.memory.kv_format, c.memory.kv_pages), (None, None));
    assert!(!c.memory.lock);
    assert_eq!(c.memory.share, Share::Client);
    assert_eq!(c.sessions.expire, Duration::from_secs(86_400));
    assert_eq!((c.sessions.dir, c.board), (None, None));
}

#[test]
fn a_full_file_is_taken() {
    let c = load(
        r#"
        node = "kitchen"
        base_topic = "plant7/line2/ai"
        board = "raspberry-pi-5-8g"
        [mqtt]
        url = "mqtt://broker.lan:1884"
        username = "glow"
        password_file = "/run/secret"
        metrics_interval_s = 5
        response_topic_allow = ["apps/answers/"]
        [broker]
        listen = "127.0.0.1:0"
        [model]
        path = "/m.gguf"
        context = 2048
        device = "cpu"
        [memory]
        budget = "1400 MiB"
        kv_format = "q8_0/q4_0"
        kv_pages = 128
        lock = true
        share = "all"
        [engine]
        max_streams = 8
        queue = 4
        threads = { prefill = 4, decode = 2 }
        max_payload_bytes = 65536
        thinking = { budget = 64, visible = true }
        [sessions]
        dir = "/var/lib/glowplug/sessions"
        key_file = "/etc/glowplug/keys"
        expire_s = 3600
        window = true
        "#,
    )
    .unwrap();
    assert_eq!(
        c.mqtt.server,
        Some(BrokerAddress {
            host: "broker.lan".into(),
            port: 1884,
            tls: false,
        })
    );
    assert_eq!(
        c.memory,
        Memory {
            budget: Some(1400 << 20),
            kv_format: Some(KvFormats {
                k: KvFormat::Q8_0,
                v: KvFormat::Q4_0,
            }),
            kv_pages: Some(128),
            lock: true,
            share: Share::All,
        }
    );
    assert_eq!(c.board.unwrap().ram.0, 8 << 30);
    assert_eq!(
        c.sessions,
        Sessions {
            dir: Some("/var/lib/glowplug/sessions".into()),
            key_file: Some("/etc/glowplug/keys".into()),
            writes_per_day: None,
            expire: Duration::from_secs(3600),
            window: true,
        }
    );
    assert_eq!(c.engine.max_streams, 8);
    assert_eq!(
        (c.engine.prefill_threads, c.engine.decode_threads),
        (Some(4), Some(2))
    );
    assert_eq!(
        c.engine.thinking,
        Thinking {
            enabled: true,
            budget: Some(64),
            visible: true
        }
    );
    assert_eq!(c.model.context, Some(2048));
    assert_eq!(c.engine.max_streams, 8);
}

#[test]
fn tls_is_asked_for_by_the_url_or_by_a_certificate() {
    let c = load(
        "[mqtt]\nurl = 'mqtts://broker.lan'\nca_file = '/ca'\ncert_file = '/c'\nkey_file = '/k'\nserver_name = 'b'",
    )
    .unwrap();
    let server = c.mqtt.server.unwrap();
    assert_eq!((server.port, server.tls), (8883, true));
    assert_eq!(c.mqtt.tls.ca_file, Some("/ca".into()));
    let identity = c.mqtt.tls.identity.unwrap();
    assert_eq!(identity.key_file, PathBuf::from("/k"));
    let server = load("[mqtt]\nurl = 'mqtts://[::1]:1999'")
        .unwrap()
        .mqtt
        .server;
    let server = server.unwrap();
    assert_eq!((server.host.as_str(), server.port), ("::1", 1999));
    assert_eq!(server.to_string(), "[::1]:1999");

    let tls = "tls = { cert_file = '/c', key_file = '/k', ca_file = '/ca' }";
    let c = load(&format!("[broker]\nlisten = '0.0.0.0:8883'\n{tls}")).unwrap();
    assert_eq!(c.listen_tls.unwrap().ca_file, Some("/ca".into()));
    let own = BrokerAddress::of_listener(c.listen, true);
    assert_eq!((own.host.as_str(), own.port), ("127.0.0.1", 8883));
    let c = load("[broker]\nlisten = '192.168.1.2:1883'\nplaintext = true").unwrap();
    assert!(c.listen_tls.is_none() && !c.listen.ip().is_loopback());
    // the programs of this machine need to know whom to trust
    assert!(load(&format!("[broker]\n{tls}\n[mqtt]\nca_file = '/ca'")).is_ok());
}

#[test]
fn an_address_of_ipv6_is_in_brackets_and_may_have_a_zone() {
    for (url, host, port) in [
        ("mqtt://[::1]", "::1", 1883),
        ("mqtts://[2001:db8::7]", "2001:db8::7", 8883),
        ("mqtt://[fe80::1%eth0]:1999/", "fe80::1%eth0", 1999),
    ] {
        let server = load(&format!("[mqtt]\nurl = '{url}'")).unwrap().mqtt.server;
        let server = server.unwrap();
        assert_eq!((server.host.as_str(), server.port), (host, port));
    }
    for (url, why) in [
        ("mqtt://::1", "in brackets"),
        ("mqtt://fe80::1:1883", "in brackets"),
        (
            "mqtt://[broker.lan]:1883",
            "`broker.lan` is no address of IPv6",
        ),
        ("mqtt://[::1]1883", "is not `mqtt://host:port`"),
        ("mqtt://[::1", "is not `mqtt://host:port`"),
        ("mqtt://[broker", "is not `mqtt://host:port`"),
    ] {
        let error = load(&format!("[mqtt]\nurl = '{url}'")).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("mqtt.url") && said.contains(why), "{said}");
    }
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let table = [
        ("nodes = 'x'", "nodes", "node"),
        ("[mqtt]\nurll = 'x'", "mqtt.urll", "mqtt.url"),
        (
            "[engine]\nmax_stream = 1",
            "engine.max_stream",
            "engine.max_streams",
        ),
        (
            "[engine.threads]\ndecod = 1",
            "engine.threads.decod",
            "engine.threads.decode",
        ),
        ("[modell]\npath = 'x'", "modell", "model.path"),
    ];
    for (text, key, nearest) in table {
        match load(text).unwrap_err() {
            ConfigError::UnknownKey { key: k, nearest: n } => {
                assert_eq!(k, key);
                if key != "modell" {
                    assert_eq!(n, nearest);
                }
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn each_limit_is_named() {
    let table = [
        ("node = 'a/b'", "node"),
        ("node = 'any'", "node"),
        ("node = ''", "node"),
        ("node = 'a+b'", "node"),
        ("base_topic = '$SYS/x'", "base_topic"),
        ("base_topic = 'a//b'", "base_topic"),
        ("base_topic = 'a/#'", "base_topic"),
        ("[mqtt]\nurl = 'http://x'", "mqtt.url"),
        ("[mqtt]\nurl = 'wss://x'", "mqtt.url"),
        ("[mqtt]\nca_file = 'x'", "mqtt.ca_file"),
        (
            "[mqtt]\nurl = 'mqtt://x'\nserver_name = 'x'",
            "mqtt.server_name",
        ),
        (
            "[mqtt]\nurl = 'mqtts://x'\ncert_file = 'x'",
            "mqtt.cert_file",
        ),
        ("[mqtt]\nurl = 'mqtts://x'\nkey_file = 'x'", "mqtt.key_file"),
        (
            "[broker]\ntls = { cert_file = 'c' }",
            "broker.tls.cert_file",
        ),
        ("[broker]\ntls = { ca_file = 'c' }", "broker.tls.ca_file"),
        (
            "[broker]\nplaintext = true\ntls = { cert_file = 'c', key_file = 'k' }",
            "broker.plaintext",
        ),
        ("[broker]\nlisten = '[::]:1883'", "broker.listen"),
        ("[mqtt]\nurl = 'mqtt://u:p@x'", "mqtt.url"),
        ("[mqtt]\nurl = 'mqtt://x:0'", "mqtt.url"),
        ("[mqtt]\nusername = 'x'", "mqtt.username"),
        ("[mqtt]\nmetrics_interval_s = 0", "mqtt.metrics_interval_s"),
        (
            "[mqtt]\nresponse_topic_allow = ['a/+']",
            "mqtt.response_topic_allow",
        ),
        ("[broker]\nlisten = '0.0.0.0:1883'", "broker.listen"),
        ("[model]\npath = 'a'\nname = 'b'", "model.path"),
        ("[model]\ndevice = 'npu'", "model.device"),
        #[cfg(not(feature = "wgpu"))]
        ("[model]\ndevice = 'auto'", "model.device"),
        #[cfg(not(feature = "wgpu"))]
        ("[model]\ndevice = 'gpu'", "model.device"),
        ("[model]\ncontext = 0", "model.context"),
        ("[model]\ncontext = 131073", "model.context"),
        ("[memory]\nbudget = 'lots'", "memory.budget"),
        ("[memory]\nkv_format = 'q4_0'", "memory.kv_format"),
        ("[memory]\nkv_format = 'q4_0/q8_0'", "memory.kv_format"),
        ("[memory]\nkv_format = 'q8_0/'", "memory.kv_format"),
        ("[memory]\nkv_format = 'f16/f16/f16'", "memory.kv_format"),
        ("[memory]\nkv_pages = 0", "memory.kv_pages"),
        ("[memory]\nshare = 'none'", "memory.share"),
        ("[memory]\nkv_pages = 4097", "memory.kv_pages"),
        ("[engine]\nmax_streams = 9", "engine.max_streams"),
        ("[engine]\nmax_streams = 0", "engine.max_streams"),
        ("[engine]\nqueue = 257", "engine.queue"),
        ("[engine]\nqueue = 0", "engine.queue"),
        (
            "[engine]\nthreads = { decode = 65 }",
            "engine.threads.decode",
        ),
        (
            "[engine]\nmax_payload_bytes = 4194305",
            "engine.max_payload_bytes",
        ),
        ("[sessions]\nexpire_s = 0", "sessions.expire_s"),
        ("[sessions]\nexpire_s = 31536001", "sessions.expire_s"),
        ("board = 'raspberry-pi-5'", "board"),
    ];
    for (text, key) in table {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{text}: {error}");
    }
}

#[test]
fn single_values_override_the_file() {
    let mut d = Draft::from_toml("node = 'a'\n[engine]\nqueue = 2").unwrap();
    d.set("node", "42").unwrap();
    d.set("engine.queue", "7").unwrap();
    d.set("engine.thinking", "false").unwrap();
    d.set("mqtt.url", "mqtt://[::1]:1999").unwrap();
    d.set("memory.budget", "2 GiB").unwrap();
    let c = d.clone().finish("h", PathBuf::new()).unwrap();
    assert_eq!((c.node.as_str(), c.engine.queue), ("42", 7));
    assert!(!c.engine.thinking.enabled);
    assert_eq!(
        c.mqtt.server,
        Some(BrokerAddress {
            host: "::1".into(),
            port: 1999,
            tls: false,
        })
    );
    assert_eq!(c.memory.budget, Some(2 << 30));
    assert!(matches!(
        d.set("engine.que", "7"),
        Err(ConfigError::UnknownKey {
            nearest: "engine.queue",
            ..
        })
    ));
}

#[test]
fn wrong_types_name_the_key() {
    let error = load("[engine]\nqueue = 'many'").unwrap_err().to_string();
    assert_eq!(
        error,
        "wrong type: `engine.queue` is a whole number, and not the string \"many\""
    );
    let error = load("[engine]\nthinking = 3").unwrap_err().to_string();
    assert!(error.contains("engine.thinking"), "{error}");
    assert!(load("mqtt = 3").unwrap_err().to_string().contains("`mqtt`"));
}

#[test]
fn a_word_that_is_no_choice_is_told_the_choices() {
    let error = load("[memory]\nshare = 'none'").unwrap_err().to_string();
    assert_eq!(
        error,
        "`memory.share`: `none` is neither `client` nor `all`"
    );
}

#[test]
fn every_key_can_be_set_by_its_environment_name() {
    for key in KEYS.iter().filter(|key| !is_in_list(key)) {
        assert!(env_name(key).starts_with("GLOWPLUG_"));
        assert_eq!(
            KEYS.iter().filter(|k| env_name(k) == env_name(key)).count(),
            1,
            "{key}"
        );
    }
    assert_eq!(
        env_name("engine.threads.decode"),
        "GLOWPLUG_ENGINE_THREADS_DECODE"
    );
}

#[test]
fn every_key_has_a_place_in_an_image_but_those_of_files() {
    // where a configuration is an image, the model file's own template is what is signed
    // and an image has no lists without a bound, as tools need them; users and keys are files that are changed while it runs
    const FILE_ONLY: &[&str] = &[
        "model.template_file",
        "broker.users_file",
        "sessions.key_file",
        "engine.tools_max_rounds",
        "pool.group",
        "tools_from.homeassistant",
        "tools_from.zigbee2mqtt",
        "tools_from.topics",
        "tools_from.clients",
        "tools_from.domains",
    ];
    for key in FILE_ONLY {
        let mut draft = Draft::default();
        draft.set(key, "7").unwrap();
        let refused = draft.to_settings().unwrap_err().to_string();
        let (table, last) = key.split_once('.').unwrap();
        // of a table that has no place at all the table is named
        let named = if ["tools_from", "pool"].contains(&table) {
            table
        } else {
            last
        };
        assert!(refused.contains(named), "{refused}");
    }
    let list = Draft::from_toml("[[presets]]\nname = 'a'").unwrap();
    let refused = list.to_settings().unwrap_err().to_string();
    assert!(refused.contains("presets"), "{refused}");
    let mut draft = Draft::default();
    // a list of tables has no bound that an image could hold
    let keys = || {
        KEYS.iter()
            .filter(|key| !FILE_ONLY.contains(key) && !is_in_list(key))
    };
    for key in keys() {
        let value = match *key {
            "mqtt.response_topic_allow" | "trust.keys" => "[\"a\"]",
            "memory.lock"
            | "sessions.window"
            | "engine.thinking"
            | "homeassistant.discovery"
            | "broker.plaintext" => "true",
            _ => "7",
        };
        draft.set(key, value).unwrap();
    }
    let settings = draft.to_settings().unwrap();
    let read = Draft::from_settings(&settings, 1).unwrap();
    assert_eq!(read.to_settings().unwrap(), settings);
    let mut there = Vec::new();
    leaves(&toml::from_str(&read.to_toml()).unwrap(), "", &mut there);
    for key in keys() {
        assert!(there.iter().any(|k| k.starts_with(key)), "{key}");
    }
}

#[test]
fn a_template_of_the_owners_is_no_way_around_a_signature() {
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let template = "[model]\ntemplate_file = 't.jinja'";
    assert!(load(template).is_ok());
    let error = load(&format!("{template}\n[trust]\nkeys = ['{key}']")).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("`model.template_file`") && error.contains("`trust.keys`"),
        "{error}"
    );
}

#[test]
fn a_pool_is_a_group_on_a_broker_that_others_can_reach() {
    let pool = |text: &str| load(text).map(|config| config.pool);
    let url = "[mqtt]\nurl = 'mqtt://b'\n";
    assert_eq!(pool(url).unwrap(), None);
    let group = pool(&format!("{url}[pool]\ngroup = 'house'")).unwrap();
    assert_eq!(group.as_deref(), Some("house"));
    for (text, says) in [
        ("[pool]\ngroup = 'house'".to_owned(), "needs `mqtt.url`"),
        (format!("{url}[pool]\ngroup = 'a/b'"), "1 to 64 characters"),
        (format!("{url}[pool]\ngroup = ''"), "1 to 64 characters"),
        (format!("{url}[pool]\ngroup = '+'"), "1 to 64 characters"),
    ] {
        let error = pool(&text).unwrap_err().to_string();
        assert!(
            error.contains("`pool.group`") && error.contains(says),
            "{error}"
        );
    }
}

fn leaves(table: &toml::Table, prefix: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => leaves(inner, &format!("{prefix}{name}."), keys),
            _ => keys.push(format!("{prefix}{name}")),
        }
    }
}

#[test]
fn a_host_name_becomes_one_level() {
    assert_eq!(topic_level("my host/#1"), "my-host--1");
    assert_eq!(topic_level(""), "node");
}
