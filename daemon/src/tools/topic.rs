//! Topics of tools: with placeholders for whole levels, and what they must never be.

/// Longest topic of a call, in bytes, whatever fills its placeholders.
pub const TOPIC_MAX: usize = 512;
/// Most levels of a topic, far below what a broker takes.
const LEVELS_MAX: usize = 32;

/// One level of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(String),
    /// The value of the property of this name.
    Placeholder(String),
}

/// A topic in which some levels are filled in by the arguments of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Level>);

impl Pattern {
    /// Reads `zigbee2mqtt/{room}/set`.
    ///
    /// # Errors
    /// Says what is wrong with it, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > TOPIC_MAX {
            return Err(format!("must have 1 to {TOPIC_MAX} bytes"));
        }
        let level = |level: &str| {
            let inner = level.strip_prefix('{').and_then(|l| l.strip_suffix('}'));
            match inner {
                Some(name) if !name.is_empty() && !name.contains(['{', '}']) => {
                    Ok(Level::Placeholder(name.to_owned()))
                }
                _ if level.contains(['{', '}']) => Err(format!(
                    "has `{level}`: a placeholder is one whole level, as in `lamps/{{room}}/set`"
                )),
                _ => check_level(level).map(|()| Level::Text(level.to_owned())),
            }
        };
        let levels: Vec<Level> = text.split('/').map(level).collect::<Result<_, _>>()?;
        if levels.len() > LEVELS_MAX {
            return Err(format!("has more than {LEVELS_MAX} levels"));
        }
        if matches!(&levels[0], Level::Text(first) if first.starts_with('$')) {
            return Err("must not start with `$`".to_owned());
        }
        Ok(Self(levels))
    }

    /// The properties that fill it in.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|level| match level {
            Level::Placeholder(name) => Some(name.as_str()),
            Level::Text(_) => None,
        })
    }

    /// The topic with these values in the place of its properties; none if one of them is missing.
    #[must_use]
    pub fn fill(&self, value: impl Fn(&str) -> Option<String>) -> Option<String> {
        let level = |level: &Level| match level {
            Level::Text(text) => Some(text.clone()),
            Level::Placeholder(name) => value(name),
        };
        let levels: Vec<String> = self.0.iter().map(level).collect::<Option<_>>()?;
        Some(levels.join("/"))
    }

    /// The filter of all topics that it can become.
    #[must_use]
    pub fn filter(&self) -> String {
        self.fill(|_| Some("+".to_owned())).unwrap_or_default()
    }

    /// Whether it can become a topic below this prefix, with the values that each property may have.
    fn may_be_below<'a, V>(&self, prefix: &str, values: &impl Fn(&str) -> V) -> bool
    where
        V: IntoIterator<Item = &'a str>,
    {
        let mut levels = self.0.iter();
        let all = prefix.split('/').all(|wanted| match levels.next() {
            Some(Level::Text(text)) => text == wanted,
            Some(Level::Placeholder(name)) => values(name).into_iter().any(|v| v == wanted),
            None => false,
        });
        all && levels.next().is_some()
    }

    /// Which topics that are never a tool's it could become, if any. `values` are those that a property may have.
    #[must_use]
    pub fn never<'a, V>(&self, base: &str, values: impl Fn(&str) -> V) -> Option<String>
    where
        V: IntoIterator<Item = &'a str>,
    {
        let below = |prefix: &&str| self.may_be_below(prefix, &values);
        let never = [base].into_iter().chain(NEVER).find(below);
        never.map(|prefix| format!("{prefix}/"))
    }
}

/// What the daemon reads and what rules a house; besides `{base}/`, no tool writes below them.
const NEVER: [&str; 2] = ["homeassistant", "zigbee2mqtt/bridge"];

/// What is wrong with one level of a topic, if anything is.
///
/// # Errors
/// Says it as the end of a sentence.
pub fn check_level(level: &str) -> Result<(), String> {
    if level.is_empty() {
        return Err("has an empty level".to_owned());
    }
    if level.contains(['/', '+', '#']) || level.chars().any(char::is_control) {
        return Err(format!(
            "has `{level}`, and a level holds no `/`, no wildcard and no control character"
        ));
    }
    Ok(())
}

/// Whether a topic without placeholders may be a tool's: it is one that can be written, and none that is never a tool's.
#[must_use]
pub fn may_be_a_tools(topic: &str, base: &str) -> bool {
    !topic.contains(['{', '}'])
        && Pattern::parse(topic).is_ok_and(|topic| topic.never(base, |_| []).is_none())
}

/// What is wrong with a filter, if anything is.
///
/// # Errors
/// Says it as the end of a sentence.
pub fn check_filter(filter: &str) -> Result<(), String> {
    if filter.is_empty() || filter.len() > TOPIC_MAX || filter.starts_with('$') {
        return Err(format!(
            "must have 1 to {TOPIC_MAX} bytes and not start with `$`"
        ));
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        match level {
            "+" => {}
            "#" if levels.peek().is_none() => {}
            level => check_level(level)?,
        }
    }
    Ok(())
}

/// Whether a filter covers a topic, or all that another filter covers.
#[must_use]
pub fn covers(filter: &str, topic: &str) -> bool {
    // a wildcard at the beginning does not stand for `$…`
    if topic.starts_with('$') && !filter.starts_with('$') {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(wanted), Some(level)) if wanted == level && level != "+" => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_placeholder_is_one_whole_level() {
        let pattern = Pattern::parse("a/{room}/set").unwrap();
        assert_eq!(pattern.placeholders().collect::<Vec<_>>(), ["room"]);
        assert_eq!(pattern.filter(), "a/+/set");
        let filled = pattern.fill(|name| (name == "room").then(|| "hall".to_owned()));
        assert_eq!(filled.unwrap(), "a/hall/set");
        assert_eq!(pattern.fill(|_| None), None);
        for (wrong, says) in [
            ("", "1 to 512 bytes"),
            ("a//b", "empty level"),
            ("a/", "empty level"),
            ("a/x{room}/b", "one whole level"),
            ("a/{}/b", "one whole level"),
            ("a/{{b}}", "one whole level"),
            ("a/+", "no wildcard"),
            ("#", "no wildcard"),
            ("$SYS/a", "start with `$`"),
            ("a/\u{0}", "control character"),
            (&"a/".repeat(40), "empty level"),
            (&format!("a{}", "/a".repeat(40)), "more than 32 levels"),
        ] {
            let error = Pattern::parse(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_is_never_a_tools_is_not_reached_by_a_value_either() {
        for (topic, values, never) in [
            ("plant/ai/x", &[][..], Some("plant/ai/")),
            ("plant/{a}/x", &["ai"], Some("plant/ai/")),
            ("plant/{a}/x", &["b"], None),
            ("{a}/ai/x", &["plant"], Some("plant/ai/")),
            ("plant/ai", &[], None),
            ("plant/ais/x", &[], None),
            ("homeassistant/x", &[], Some("homeassistant/")),
            ("{a}/x/y", &["homeassistant"], Some("homeassistant/")),
            (
                "zigbee2mqtt/bridge/request",
                &[],
                Some("zigbee2mqtt/bridge/"),
            ),
            (
                "zigbee2mqtt/{a}/set",
                &["lamp", "bridge"],
                Some("zigbee2mqtt/bridge/"),
            ),
            ("zigbee2mqtt/{a}/set", &["lamp"], None),
        ] {
            let pattern = Pattern::parse(topic).unwrap();
            let found = pattern.never("plant/ai", |_| values.iter().copied());
            assert_eq!(found.as_deref(), never, "{topic} {values:?}");
        }
        assert!(may_be_a_tools("a/b", "base") && !may_be_a_tools("base/b", "base"));
        assert!(!may_be_a_tools("a/{b}", "base") && !may_be_a_tools("$a", "base"));
    }

    #[test]
    fn filters_cover_topics_and_filters() {
        for (filter, covered, not) in [
            (
                "a/+/c",
                &["a/b/c", "a/+/c"][..],
                &["a/b", "a/b/c/d", "a/#", "a/b/+"][..],
            ),
            ("a/#", &["a", "a/b", "a/+/c", "a/#"], &["b", "ab"]),
            ("#", &["a", "a/b", "+/#"], &["$SYS/a"]),
            ("a/b", &["a/b"], &["a/+", "a", "a/b/c"]),
        ] {
            assert!(check_filter(filter).is_ok());
            for topic in covered {
                assert!(covers(filter, topic), "{filter} {topic}");
            }
            for topic in not {
                assert!(!covers(filter, topic), "{filter} {topic}");
            }
        }
        for wrong in ["", "$SYS/#", "a/#/b", "a#", "a//b", "a/b+"] {
            assert!(check_filter(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Whatever is filled in, a topic is covered by the filter of its pattern and by no other shape.
        #[test]
        fn a_filled_topic_is_covered(levels in prop::collection::vec("[a-c]{1,2}", 1..6), open in 0..6_usize) {
            let text: Vec<String> = levels.iter().enumerate()
                .map(|(i, level)| if i == open { "{p}".to_owned() } else { level.clone() }).collect();
            let pattern = Pattern::parse(&text.join("/")).unwrap();
            let topic = pattern.fill(|_| Some("zz".to_owned())).unwrap();
            prop_assert!(covers(&pattern.filter(), &topic));
            let (deeper, shorter) = (format!("{topic}/a"), topic.rsplit_once('/').map(|(a, _)| a.to_owned()));
            prop_assert!(!covers(&pattern.filter(), &deeper));
            prop_assert!(shorter.is_none_or(|shorter| !covers(&pattern.filter(), &shorter)));
        }
    }
}
