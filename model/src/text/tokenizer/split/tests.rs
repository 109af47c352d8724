use super::*;
use fancy_regex::Regex as Fancy;
use proptest::prelude::*;
use std::collections::HashSet;

fn words_of<'t>(rule: &Rule, text: &'t str) -> Vec<&'t str> {
    let mut words = Vec::new();
    rule.split(text, |w| {
        words.push(w);
        Ok::<_, ()>(())
    })
    .unwrap();
    words
}

fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
    words_of(&Rule::new(published(name).unwrap()).unwrap(), text)
}

#[test]
fn an_unknown_rule_is_refused_by_name_and_told_what_to_do() {
    let message = published("bloom").map(drop).unwrap_err().to_string();
    for part in [
        "`tokenizer.ggml.pre` is `bloom`, ",
        "known are qwen2, deepseek-r1-qwen, ",
        "tekken",
        "gguf-new-metadata --pre-tokenizer NAME",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn every_rule_compiles_and_has_its_own_names() {
    let all: Vec<&str> = names().collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    for name in all {
        assert_eq!(words(name, "a"), ["a"], "{name}");
    }
}

#[test]
fn rules_differ_where_they_should() {
    #[rustfmt::skip]
    let table: &[(&str, &str, &[&str])] = &[
        ("qwen2", "I'LL pay 1234", &["I", "'LL", " pay", " ", "1", "2", "3", "4"]),
        ("llama-bpe", "I'LL pay 1234", &["I", "'LL", " pay", " ", "123", "4"]),
        ("gpt-2", "I'LL pay 1234", &["I", "'", "LL", " pay", " 1234"]),
        ("smollm", "I'LL pay 1234", &["I", "'", "LL", " pay", " ", "1", "2", "3", "4"]),
        ("minicpm5", "I'LL pay 1234", &["I", "'LL", " pay", " ", "123", "4"]),
        ("qwen2", "a  b\n\n c;\n\n", &["a", " ", " b", "\n\n", " c", ";\n\n"]),
        ("gpt-2", "a  b\n\n c;\n\n", &["a", " ", " b", "\n\n", " c", ";", "\n\n"]),
        ("seed-coder", "a;\n\nb", &["a", ";", "\n\n", "b"]),
        ("smollm", "   7", &["   ", "7"]),
        ("gpt-2", "   7", &["  ", " 7"]),
        ("falcon", "   1234$+x", &["  ", " ", "123", "4", "$+", "x"]),
        // a mark that follows its letter
        ("qwen2", "cafe\u{301}s", &["cafe", "\u{301}s"]),
        ("qwen35", "cafe\u{301}s", &["cafe\u{301}s"]),
        // case
        ("qwen2", "getHTTPUrl", &["getHTTPUrl"]),
        ("llama4", "getHTTPUrl's", &["get", "HTTPUrl's"]),
        ("tekken", "getHTTPUrl's", &["get", "HTTPUrl", "'s"]),
        ("tekken", "a://b/12", &["a", "://", "b", "/", "1", "2"]),
        ("deepseek-llm", "Hi, 你好 1234", &["Hi", ",", " ", "你好", " ", "1234"]),
        ("deepseek-coder", "Hi, 你好 12", &["Hi", ",", " ", "你好", " ", "1", "2"]),
        ("deepseek-v3", "x+=1234;你ab\u{301}\0\u{1}", &["x", "+=", "123", "4", ";", "你", "ab\u{301}", "\0\u{1}"]),
        ("deepseek-v3", "$foo\n\n  bar", &["$foo", "\n\n", " ", " bar"]),
    ];
    for (rule, text, expected) in table {
        assert_eq!(words(rule, text), *expected, "{rule} {text:?}");
    }
}

#[test]
fn words_begin_with_blanks() {
    for (text, expected) in [
        ("", &[][..]),
        (" a  bc ", &[" a", "  bc", " "]),
        ("a", &["a"]),
        ("  ", &["  "]),
    ] {
        assert_eq!(words_of(&Rule::blanks(), text), expected);
    }
    assert_eq!(words_of(&Rule::whole(), " a b"), [" a b"]);
}

/// The expressions as they are published, with the look-ahead, each on what the one before it has left. What lies between two
/// matches stays in one.
fn expressions(rule: &str) -> Vec<String> {
    let contraction = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
    let blank = r"\s*[\r\n]+|\s+(?!\S)|\s+";
    let tail = format!(r" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{blank}");
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
    let upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
    let lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
    let cased = |behind: &str| {
        format!(
            r"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{behind}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{behind}"
        )
    };
    let slashes = format!(r" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{blank}");
    let asian = r"[一-龥ࠀ-一가-퟿]+".to_owned();
    let letters = |digits: &str| {
        format!(r"{contraction}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|{tail}")
    };
    match rule {
        "qwen2" => vec![letters("")],
        "llama-bpe" | "smaug-bpe" | "glm4" => vec![letters("{1,3}")],
        "minicpm5" => vec![r"\p{N}{1,3}".into(), letters("+")],
        "bailingmoe" => vec![letters("").replace(r"\s*[\r\n]+", r"\s*[\r\n]")],
        "seed-coder" => {
            vec![letters("").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")]
        }
        "qwen35" => vec![
            letters("")
                .replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+")
                .replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"),
        ],
        "gpt-2" => vec![gpt2.into()],
        "smollm" => vec![r"\p{N}".into(), gpt2.into()],
        "falcon" => vec![
            r"[\p{P}\$\+<=>\^~\|`]+".into(),
            gpt2.into(),
            "[0-9][0-9][0-9]".into(),
        ],
        "tekken" => vec![format!(r"{}|\p{{N}}|{slashes}", cased(""))],
        "llama4" => vec![format!(
            r"{}|\p{{N}}{{1,3}}|{slashes}",
            cased(&format!("{contraction}?"))
        )],
        "deepseek-coder" => vec![
            "[\r\n]".into(),
            r"\s?\p{L}+".into(),
            r"\s?\p{P}+".into(),
            asian,
            r"\p{N}".into(),
        ],
        "deepseek-v3" => vec![
            r"\p{N}{1,3}".into(),
            "[一-龥぀-ゟ゠-ヿ]+".into(),
            format!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{{|}}~][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{blank}"##
            ),
        ],
        _ => unreachable!("{rule}"),
    }
}

fn apart(expressions: &[Fancy], text: &str) -> Vec<String> {
    let Some((first, others)) = expressions.split_first() else {
        return Some(text.to_owned())
            .filter(|text| !text.is_empty())
            .into_iter()
            .collect();
    };
    let (mut words, mut at) = (Vec::new(), 0);
    for found in first.find_iter(text) {
        let found = found.unwrap();
        words.extend(apart(others, &text[at..found.start()]));
        words.extend(apart(others, found.as_str()));
        at = found.end();
    }
    words.extend(apart(others, &text[at..]));
    words
}

/// Rules with expressions of their own, but for the one of DeepSeek LLM whose letters are a list.
const RULES: [&str; 15] = [
    "qwen2",
    "llama-bpe",
    "smaug-bpe",
    "glm4",
    "minicpm5",
    "bailingmoe",
    "seed-coder",
    "qwen35",
    "gpt-2",
    "smollm",
    "falcon",
    "tekken",
    "llama4",
    "deepseek-coder",
    "deepseek-v3",
];

#[test]
fn every_rule_is_compared_with_what_is_published() {
    for rule in &PUBLISHED {
        let compared = rule.names.iter().any(|name| RULES.contains(name));
        assert!(
            compared || rule.names == ["deepseek-llm"],
            "{:?}",
            rule.names
        );
    }
}

proptest! {
    #[test]
    fn equals_the_published_rules(
        text in prop_oneof![
            "[ \\t\\r\\na1'sLl.;/$é界ー가½\u{3000}\u{a0}\u{200d}\u{301}\\x00]{0,24}",
            any::<String>(),
        ],
        rule in prop::sample::select(&RULES[..]),
    ) {
        let expressions = expressions(rule).iter().map(|e| Fancy::new(e).unwrap()).collect::<Vec<_>>();
        prop_assert_eq!(words(rule, &text), apart(&expressions, &text));
    }

    #[test]
    fn the_words_of_every_rule_are_the_text(
        text in prop_oneof!["[ \\n1'sLl.é界\u{3000}\u{301}\\x00]{0,24}", any::<String>()],
        rule in prop::sample::select(names().collect::<Vec<_>>()),
    ) {
        let words = words(rule, &text);
        prop_assert!(words.iter().all(|word| !word.is_empty()));
        prop_assert_eq!(words.concat(), text);
    }
}
