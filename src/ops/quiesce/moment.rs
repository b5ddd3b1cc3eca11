//! Moments that two processes can compare, and processes that can be told from later ones of the same number.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::format::node::Timestamp;
use crate::ops::backup::now;
use crate::ops::browse::time_text;

/// A moment on the wall clock for people, and on the host's clock since its start for comparisons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment {
    seconds: i64,
    nanos: u32,
    /// Nanoseconds since the host started; the same for all processes, and nobody sets it.
    pub(super) since_boot: u64,
}

impl Moment {
    pub(super) fn now() -> Self {
        let Timestamp { seconds, nanos } = now();
        Self {
            seconds,
            nanos,
            since_boot: since_boot(),
        }
    }

    /// As it stands in the record.
    pub(super) fn timestamp(self) -> Timestamp {
        Timestamp {
            seconds: self.seconds,
            nanos: self.nanos,
        }
    }

    /// For messages.
    pub(super) fn text(self) -> String {
        time_text(Timestamp {
            nanos: 0,
            ..self.timestamp()
        })
    }
}

/// Nanoseconds since the host started.
pub(super) fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}

/// A process, and no later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessIdentity {
    pub(super) pid: u32,
    /// When it began, in the kernel's count.
    start: String,
    /// Which start of the host it belongs to.
    boot: String,
}

impl ProcessIdentity {
    pub(super) fn own() -> Self {
        Self::of(std::process::id())
    }

    pub(super) fn of(pid: u32) -> Self {
        Self {
            pid,
            start: start_of(pid).unwrap_or_default(),
            boot: boot(),
        }
    }

    /// Whether it runs.
    pub(super) fn is_alive(&self) -> bool {
        self.boot == boot() && start_of(self.pid).is_some_and(|start| start == self.start)
    }
}

fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim_end().to_owned()
}

/// The kernel's count at the begin of a process; none if there is none, or if it has ended and nobody waited for it.
fn start_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in parentheses and may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    // State is the third field, the start the 22nd.
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart() {
        let own = ProcessIdentity::own();
        assert!(own.is_alive() && own.start.parse::<u64>().is_ok());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let of_child = ProcessIdentity::of(child.id());
        assert!(of_child.is_alive());
        let before = ProcessIdentity {
            start: "1".into(),
            ..of_child.clone()
        };
        assert!(!before.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!of_child.is_alive());
        let other_boot = ProcessIdentity {
            boot: "x".into(),
            ..own
        };
        assert!(!other_boot.is_alive());
    }
}
