//! A thing of a catalogue: what is published to bring it into a state, and to set it to a number.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The numbers that things can be set to, in the order in which a model gives them.
pub const LEVELS: [&str; 3] = [BRIGHTNESS, COLOR_TEMP, POSITION];
pub const BRIGHTNESS: &str = "brightness";
/// Warm and cold white. People say it in kelvin, whatever a lamp counts in.
pub const COLOR_TEMP: &str = "color_temp_kelvin";
/// How far a cover is open.
pub const POSITION: &str = "position";

/// The states that no number goes with: what is switched off has no brightness.
const BARE: [&str; 2] = ["off", "stop"];

/// What can be done with one thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thing {
    pub topic: String,
    /// Where it tells its state, if it does.
    pub reply_topic: Option<String>,
    /// The payload by the name of the state.
    pub states: BTreeMap<String, String>,
    /// What it can be set to besides, by the name of the argument, which is one of [`LEVELS`].
    pub levels: BTreeMap<&'static str, Level>,
}

/// A number that a thing can be set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    pub least: i64,
    pub most: i64,
    pub unit: Unit,
    pub way: Way,
    /// It says the state too, so that the state is not published beside it.
    pub alone: bool,
}

/// What a number is to the thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// What the model gives is what the thing takes.
    Own,
    /// A million by the number, which is in kelvin.
    Mired,
}

/// How a number reaches the thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By this key of the object that is published on the thing's topic, where the state has its own.
    Key(String),
    /// As the whole payload of this topic.
    Topic(String),
}

impl Level {
    /// A number in the range that a catalogue names. None: that is no range.
    pub fn new(least: i64, most: i64, way: Way) -> Option<Self> {
        const FAR: i64 = 1_000_000;
        (-FAR <= least && least < most && most <= FAR).then_some(Self {
            least,
            most,
            unit: Unit::Own,
            way,
            alone: false,
        })
    }

    /// The same, where the range is in mireds and the number will be in kelvin.
    pub fn in_mireds(least: i64, most: i64, way: Way) -> Option<Self> {
        if least < 1 || !(1..=MIREDS).contains(&most) {
            return None;
        }
        let (coldest, warmest) = (MIREDS / least, (MIREDS + most - 1) / most);
        let level = Self::new(warmest, coldest, way)?;
        Some(Self {
            unit: Unit::Mired,
            ..level
        })
    }

    /// The topic of its own that it has, if it has one.
    fn topic(&self) -> Option<&String> {
        match &self.way {
            Way::Topic(topic) => Some(topic),
            Way::Key(_) => None,
        }
    }

    fn payload(&self, number: i64) -> i64 {
        match self.unit {
            Unit::Own => number,
            Unit::Mired => (MIREDS + number / 2) / number,
        }
    }
}

/// Mireds and kelvins multiplied.
const MIREDS: i64 = 1_000_000;

impl Thing {
    /// The topics that it is told something on.
    pub fn topics(&self) -> impl Iterator<Item = &String> {
        let levels = self.levels.values().filter_map(Level::topic);
        std::iter::once(&self.topic).chain(levels)
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        const EACH: usize = 96;
        let states = self.states.iter();
        let states: usize = states
            .map(|(name, payload)| EACH + name.len() + payload.len())
            .sum();
        let way = |level: &Level| match &level.way {
            Way::Key(text) | Way::Topic(text) => EACH + text.len(),
        };
        let levels: usize = self.levels.values().map(way).sum();
        let reply = self.reply_topic.as_ref().map_or(0, String::len);
        EACH + self.topic.len() + reply + states + levels
    }

    /// What brings it into a state and to these numbers: topics and payloads, of which the last is the one that counts. `name`
    /// is that of the thing.
    ///
    /// # Errors
    /// Says in words for the model why nothing does.
    pub fn plan(
        &self,
        name: &str,
        state: &str,
        numbers: &[(&'static str, i64)],
    ) -> Result<Vec<(String, String)>, String> {
        let payload = self.states.get(state);
        let payload = payload.ok_or_else(|| format!("`{name}` has no state `{state}`"))?;
        let (mut all, mut keys, mut with_state) = (Vec::new(), Map::new(), true);
        for (what, number) in numbers {
            let level = self.levels.get(what);
            let level = level.ok_or_else(|| format!("`{name}` has no `{what}`"))?;
            let (least, most) = (level.least, level.most);
            if !(least..=most).contains(number) {
                return Err(format!(
                    "`{what}` of `{name}` must be from {least} to {most}"
                ));
            }
            if BARE.contains(&state) {
                continue;
            }
            with_state &= !level.alone;
            let number = level.payload(*number);
            match &level.way {
                Way::Key(key) => drop(keys.insert(key.clone(), number.into())),
                Way::Topic(topic) => all.push((topic.clone(), number.to_string())),
            }
        }
        if keys.is_empty() {
            if with_state {
                all.push((self.topic.clone(), payload.clone()));
            }
        } else {
            // where numbers have keys, so has the state
            let state =
                with_state.then(|| serde_json::from_str::<Map<String, Value>>(payload).ok());
            let mut object = state.flatten().unwrap_or_default();
            object.append(&mut keys);
            all.push((self.topic.clone(), Value::Object(object).to_string()));
        }
        Ok(all)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn thing(states: &[(&str, &str)], levels: Vec<(&'static str, Level)>) -> Thing {
        let state = |(name, payload): &(&str, &str)| ((*name).to_owned(), (*payload).to_owned());
        Thing {
            topic: "t".to_owned(),
            reply_topic: None,
            states: states.iter().map(state).collect(),
            levels: levels.into_iter().collect(),
        }
    }

    fn plan(thing: &Thing, state: &str, numbers: &[(&'static str, i64)]) -> String {
        let planned = thing.plan("Lamp", state, numbers);
        let all = planned.map(|all| {
            all.into_iter()
                .map(|(topic, said)| format!("{topic} {said}"))
        });
        all.map_or_else(|why| why, |all| all.collect::<Vec<_>>().join("; "))
    }

    fn key(key: &str) -> Way {
        Way::Key(key.to_owned())
    }

    #[test]
    fn a_number_goes_with_its_state_by_a_key() {
        let lamp = thing(
            &[("on", r#"{"state":"ON"}"#), ("off", r#"{"state":"OFF"}"#)],
            vec![
                (BRIGHTNESS, Level::new(0, 254, key("bright")).unwrap()),
                (COLOR_TEMP, Level::in_mireds(150, 500, key("ct")).unwrap()),
            ],
        );
        for (state, numbers, says) in [
            ("on", &[][..], r#"t {"state":"ON"}"#),
            (
                "on",
                &[(BRIGHTNESS, 254)],
                r#"t {"state":"ON","bright":254}"#,
            ),
            (
                "on",
                &[(BRIGHTNESS, 9), (COLOR_TEMP, 2700)],
                r#"t {"state":"ON","bright":9,"ct":370}"#,
            ),
            ("off", &[(BRIGHTNESS, 9)], r#"t {"state":"OFF"}"#),
            (
                "on",
                &[(BRIGHTNESS, 255)],
                "`brightness` of `Lamp` must be from 0 to 254",
            ),
            (
                "off",
                &[(BRIGHTNESS, -1)],
                "`brightness` of `Lamp` must be from 0 to 254",
            ),
            ("on", &[(POSITION, 1)], "`Lamp` has no `position`"),
            ("up", &[], "`Lamp` has no state `up`"),
        ] {
            assert_eq!(plan(&lamp, state, numbers), says);
        }
        // every kelvin of the range is a mired of the lamp's
        let white = &lamp.levels[COLOR_TEMP];
        assert_eq!((white.least, white.most), (2000, 6666));
        for kelvin in [white.least, 2001, 4000, 6665, white.most] {
            assert!((150..=500).contains(&white.payload(kelvin)), "{kelvin}");
        }
    }

    #[test]
    fn a_number_has_a_topic_of_its_own_or_says_the_state_too() {
        let topic = |topic: &str| Way::Topic(topic.to_owned());
        let mut brightness = Level::new(1, 255, topic("b")).unwrap();
        let white = Level::in_mireds(153, 500, topic("w")).unwrap();
        let states = [("on", "ON"), ("off", "OFF")];
        let lamp = |brightness: &Level| {
            let levels = vec![
                (BRIGHTNESS, brightness.clone()),
                (COLOR_TEMP, white.clone()),
            ];
            thing(&states, levels)
        };
        let numbers = [(COLOR_TEMP, 4000), (BRIGHTNESS, 7)];
        assert_eq!(plan(&lamp(&brightness), "on", &numbers), "w 250; b 7; t ON");
        assert_eq!(plan(&lamp(&brightness), "off", &numbers), "t OFF");
        brightness.alone = true;
        assert_eq!(plan(&lamp(&brightness), "on", &numbers), "w 250; b 7");
        let mut position = Level::new(0, 100, key("position")).unwrap();
        position.alone = true;
        let states = [
            ("open", r#"{"state":"OPEN"}"#),
            ("stop", r#"{"state":"STOP"}"#),
        ];
        let blind = thing(&states, vec![(POSITION, position)]);
        assert_eq!(
            plan(&blind, "open", &[(POSITION, 30)]),
            r#"t {"position":30}"#
        );
        assert_eq!(
            plan(&blind, "stop", &[(POSITION, 30)]),
            r#"t {"state":"STOP"}"#
        );
        let topics: Vec<_> = lamp(&Level::new(0, 1, topic("b")).unwrap())
            .topics()
            .cloned()
            .collect();
        assert_eq!(topics, ["t", "b", "w"]);
    }

    #[test]
    fn what_is_no_range_is_no_number() {
        for (least, most) in [(1, 1), (2, 1), (0, i64::MAX), (i64::MIN, 0)] {
            assert_eq!(Level::new(least, most, key("a")), None);
            assert_eq!(Level::in_mireds(least, most, key("a")), None);
        }
        assert_eq!(Level::in_mireds(0, 500, key("a")), None);
        assert_eq!(Level::in_mireds(i64::MIN, i64::MAX, key("a")), None);
    }
}
