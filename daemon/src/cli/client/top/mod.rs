//! `glowplug top`: how a running daemon is, as it changes.

mod readings;
mod screen;

use self::readings::Readings;
use super::{CONNECT, Target, options};
use crate::cli::client_runtime;
use crate::cli::failure::{Failure, put, put_json};
use crate::cli::serve::shutdown;
use crate::mqtt::{self, Event, Events, Incoming, Link};
use crate::wire::topics::Topics;
use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use ratatui::termion::async_stdin;
use ratatui::termion::event::Key;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::IntoRawMode;
use ratatui::termion::screen::IntoAlternateScreen;
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::time::{Instant, interval, timeout_at};

/// How long it is waited for a reading. A daemon may be configured to publish one an hour.
const READING: Duration = Duration::from_secs(3600 + 60);

/// How often keys are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// A live view of a running daemon: q ends it
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// print one reading and end
    #[arg(long)]
    once: bool,
    /// print readings as JSON, one a line, instead of the screen
    #[arg(long)]
    json: bool,
}

/// Shows the daemon until q, or prints what was asked for.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (config, server) = args.target.place()?;
    let live = !args.once && !args.json;
    if live && !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(Failure::Use(
            "this is no terminal: --once prints one screen, --json readings".into(),
        ));
    }
    let name = args
        .target
        .client(&format!("cli-{:08x}", fastrand::u32(..)))?;
    let topics = Topics::new(&config.base_topic, &config.node);
    // its metrics at last: what comes at once is there before the first of them
    let subscriptions = vec![topics.status(), topics.info(), topics.metrics()];
    let options = options(&config, server, name, subscriptions)?;
    client_runtime()?.block_on(async {
        let (link, events) = mqtt::connect(options);
        let mut watch = Watch {
            link,
            events,
            readings: Readings::new(&config.node, topics),
        };
        let shown = if live {
            watch.show().await
        } else {
            watch.print(args.once, args.json).await
        };
        watch.link.close(super::GOODBYE).await;
        shown
    })
}

/// What comes of a daemon.
struct Watch {
    link: Link,
    events: Events,
    readings: Readings,
}

impl Watch {
    /// Prints every reading, or one.
    async fn print(&mut self, once: bool, json: bool) -> Result<(), Failure> {
        let mut deadline = Instant::now() + CONNECT;
        loop {
            let Ok(event) = timeout_at(deadline, self.events.recv()).await else {
                return Err(Failure::Run(self.readings.missing()));
            };
            let up = matches!(event, Some(Event::Up { .. }));
            let news = self.take(event)?;
            if let Some(why) = &self.readings.trouble {
                return Err(Failure::Run(why.clone()));
            }
            if up {
                deadline = Instant::now() + CONNECT;
            }
            if self.readings.state.as_deref() == Some("offline") {
                return Err(Failure::Run(self.readings.missing()));
            }
            if self.readings.state.is_some() {
                deadline = Instant::now() + READING;
            }
            if !news {
                continue;
            }
            if json {
                put_json(&self.readings.json())?;
            } else {
                put(&screen::text(&self.readings)?)?;
            }
            if once {
                return Ok(());
            }
        }
    }

    /// Draws the screen whenever something changes.
    async fn show(&mut self) -> Result<(), Failure> {
        let failed = |error| Failure::Run(format!("cannot draw on the terminal: {error}"));
        let mut shutdown = std::pin::pin!(shutdown()?);
        // both are undone when they are dropped, also by a panic
        let raw = io::stdout().into_raw_mode().map_err(failed)?;
        let output = raw.into_alternate_screen().map_err(failed)?;
        let mut terminal = Terminal::new(TermionBackend::new(output)).map_err(failed)?;
        let mut keys = async_stdin().keys();
        let mut look = interval(LOOK);
        loop {
            let draw = |frame: &mut ratatui::Frame<'_>| screen::draw(frame, &self.readings);
            terminal.draw(draw).map_err(failed)?;
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                event = self.events.recv() => {
                    self.take(event)?;
                }
                _ = look.tick() => {
                    let ends = |key| matches!(key, Ok(Key::Char('q') | Key::Esc | Key::Ctrl('c')));
                    if keys.by_ref().any(ends) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Follows the connection and what comes by it. True: it is a new reading.
    fn take(&mut self, event: Option<Event>) -> Result<bool, Failure> {
        match event {
            None => Err(Failure::Run("the connection ended".into())),
            Some(Event::Down { reason, refused }) => {
                let why = format!("cannot reach the broker: {reason}");
                if refused {
                    return Err(Failure::Run(why));
                }
                self.readings.trouble = Some(why);
                Ok(false)
            }
            Some(Event::Unsubscribed { filter, reason }) => Err(Failure::Run(format!(
                "the broker refuses the subscription to `{filter}`: {reason}"
            ))),
            Some(Event::Up { .. }) => {
                self.readings.trouble = None;
                Ok(false)
            }
            Some(
                Event::Left { .. }
                | Event::Refused(..)
                | Event::Subscribed { .. }
                | Event::Withdrawn { .. }
                | Event::Delivered(..),
            ) => Ok(false),
            Some(Event::Incoming(Incoming { message, ack, .. })) => {
                if let Some(ack) = ack {
                    // if this fails, it comes again
                    let _ = self.link.ack(ack);
                }
                Ok(self.readings.take(&message.topic, &message.payload))
            }
        }
    }
}
