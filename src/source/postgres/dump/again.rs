//! How often a database is begun again with a new snapshot, for which reasons, and what people are told of it.

use std::thread;
use std::time::Duration;

use super::error::DumpError;

/// How often one database is begun again because its definitions changed meanwhile.
const RESTARTS_MAX: u32 = 3;
/// How often it is begun again, with all tables held, because others queued up before `pg_dump` had its locks.
const QUEUES_MAX: u32 = 20;
/// How often one database is begun again because the replay of a standby ended it: the next time is hardly better.
const REPLAYS_MAX: u32 = 1;

/// Which reasons to begin a database again have been used up.
#[derive(Clone, Debug, Default)]
pub(super) struct Again {
    /// Because definitions changed.
    pub(super) restarts: u32,
    /// Because the replay of a standby ended a statement.
    pub(super) replays: u32,
    /// Because others queued up behind the held locks.
    queues: u32,
    /// Whether the tables are held although nobody asked for it.
    pub(super) held: bool,
    /// Why they could not be.
    pub(super) not_held: Option<String>,
}

impl Again {
    /// Counts one more time, or returns the error for good.
    pub(super) fn allow(&mut self, database: &str, error: DumpError) -> Result<(), DumpError> {
        let (reason, times) = match error {
            DumpError::Restart(reason) if self.restarts < RESTARTS_MAX => {
                self.restarts += 1;
                (reason, self.restarts)
            }
            // What is not a table is not held: it may still change before pg_dump comes to it.
            DumpError::Restart(reason) if self.held && self.queues < QUEUES_MAX => {
                self.queue(reason)
            }
            DumpError::Queue(reason) if self.queues < QUEUES_MAX => self.queue(reason),
            DumpError::Replay(reason) if self.replays < REPLAYS_MAX => {
                self.replays += 1;
                (reason, self.replays)
            }
            DumpError::Restart(reason) => return Err(DumpError::Restart(self.farewell(&reason))),
            error => return Err(error),
        };
        tracing::warn!(
            database,
            times,
            reason,
            "beginning again with a new snapshot"
        );
        Ok(())
    }

    /// Counts a time that others were in the way, and waits a little, never twice as long.
    fn queue(&mut self, reason: String) -> (String, u32) {
        self.queues += 1;
        thread::sleep(Duration::from_millis(u64::from(self.queues * 37 % 100)));
        (reason, self.queues)
    }

    fn farewell(&self, reason: &str) -> String {
        let why = match &self.not_held {
            Some(why) => format!(", the last time without held locks: {why}"),
            None => String::new(),
        };
        format!("{reason} (begun again {} times{why})", self.restarts)
    }

    /// Says whether there is no further time, so that this one must do.
    pub(super) fn is_last(&self) -> bool {
        self.restarts == RESTARTS_MAX
    }

    /// Says what a person should know of a database that was begun again.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.restarts > 0 {
            let times = self.restarts;
            notes.push(format!(
                "begun again {times} times, because definitions changed meanwhile"
            ));
        }
        if self.held {
            notes.push(
                "all tables were locked until the end of this dump (as with locks = \"hold\"), because definitions changed in every attempt without"
                    .to_owned(),
            );
        }
        if self.replays > 0 {
            notes.push("begun again, because the replay of the standby ended it once".to_owned());
        }
        notes
    }
}
