//! Commands of a plan, run one after the other, and what is said about them.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use crate::site::command::{self, Finished, Surroundings};
use crate::site::config::Confidential;
use crate::site::config::run::CommandSetting;

/// How much of a command's output a report keeps.
const OUTPUT_BYTES: usize = 4 << 10;
/// The pause before a start command is tried again; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A command as it is handed from process to process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Step {
    /// What messages call it.
    pub(super) title: String,
    #[serde(with = "exposed")]
    command: Confidential,
    timeout_ms: u64,
}

/// A command goes to the guardian's pipe and to the private state file as it is.
mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::site::config::Confidential;

    pub(super) fn serialize<S: Serializer>(
        text: &Confidential,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Confidential, D::Error> {
        String::deserialize(deserializer).map(Confidential::new)
    }
}

impl Step {
    pub(super) fn of(setting: &CommandSetting) -> Self {
        Self {
            title: setting.title(),
            command: setting.command.clone(),
            timeout_ms: u64::try_from(setting.timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn all(settings: &[CommandSetting]) -> Vec<Self> {
        settings.iter().map(Self::of).collect()
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Runs it once; an error says in words how it failed, with what it printed.
    pub(super) fn run(
        &self,
        environment: &[(&str, &str)],
        stdin: &[u8],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        let setting = CommandSetting {
            service: None,
            command: self.command.clone(),
            timeout: self.timeout(),
        };
        let surroundings = Surroundings {
            environment,
            stdin: (!stdin.is_empty()).then_some(stdin),
            stop: Some(cancelled),
        };
        let finished = command::run(&setting, &surroundings);
        if finished.is_good() {
            return Ok(());
        }
        let how = Finished {
            output: String::new(),
            ..finished
        };
        // Not the last line alone: what went wrong with a service may stand anywhere.
        let output = finished.output.trim();
        let from = output.len().saturating_sub(OUTPUT_BYTES);
        let from = (from..output.len())
            .find(|at| output.is_char_boundary(*at))
            .unwrap_or(output.len());
        Err(match output.get(from..).unwrap_or_default() {
            "" => format!("it {how} and said nothing"),
            said => format!("it {how}; it said: {said}"),
        })
    }
}

/// What a command finds in its environment.
pub(super) fn environment<'a>(site: &'a str, step: &'a str) -> [(&'static str, &'a str); 2] {
    [("HOLDFAST_SITE", site), ("HOLDFAST_STEP", step)]
}

/// What the stop commands came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stopped {
    /// The first one began.
    pub(super) begun: Moment,
    /// The last one had ended.
    pub(super) ended: Moment,
    /// Which one failed, and how.
    pub(super) problem: Option<String>,
}

/// Runs stop commands up to the first one that fails.
pub(super) fn stop(site: &str, steps: &[Step], cancelled: &dyn Fn() -> bool) -> Stopped {
    let begun = Moment::now();
    let environment = environment(site, "stop");
    let mut problem = None;
    for step in steps {
        if let Err(how) = step.run(&environment, b"", cancelled) {
            problem = Some(format!("stop command {} failed: {how}", step.title));
            break;
        }
    }
    Stopped {
        begun,
        ended: Moment::now(),
        problem,
    }
}

/// What the start commands came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Started {
    /// The first one began.
    pub(super) begun: Moment,
    /// The last one had ended.
    pub(super) ended: Moment,
    /// Failures that a later attempt made good.
    pub(super) retried: Vec<String>,
    /// What is down, and how its start failed at last.
    pub(super) problems: Vec<String>,
}

/// Runs all start commands, each several times if it fails; one that fails at last does not keep the others from being run.
pub(super) fn start(site: &str, steps: &[Step], attempts: u32) -> Started {
    let mut started = Started {
        begun: Moment::now(),
        ..Started::default()
    };
    let environment = environment(site, "start");
    for step in steps {
        let mut pause = PAUSE;
        for attempt in 1..=attempts.max(1) {
            let Err(how) = step.run(&environment, b"", &|| false) else {
                break;
            };
            if attempt >= attempts {
                started.problems.push(format!(
                    "start command {} failed ({attempt} attempts): {how}",
                    step.title
                ));
                break;
            }
            started.retried.push(format!(
                "start command {} failed and is tried again: {how}",
                step.title
            ));
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    started.ended = Moment::now();
    started
}

/// The longest time that starting may take.
pub(super) fn start_limit(steps: &[Step], attempts: u32) -> Duration {
    let slack = PAUSE_MAX + Duration::from_secs(30);
    let each = |step: &Step| (step.timeout() + slack) * attempts.max(1);
    steps.iter().map(each).sum::<Duration>() + slack
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(commands: &[&str]) -> Vec<Step> {
        let setting = |command: &&str| CommandSetting {
            service: Some("web".into()),
            command: Confidential::new((*command).to_owned()),
            timeout: Duration::from_secs(60),
        };
        let settings: Vec<CommandSetting> = commands.iter().map(setting).collect();
        Step::all(&settings)
    }

    #[test]
    fn stopping_ends_at_the_first_failure() {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join("marker");
        let touch = format!("touch {}", marker.display());
        let done = stop(
            "s",
            &steps(&["true", "echo $HOLDFAST_SITE $HOLDFAST_STEP; exit 3", &touch]),
            &|| false,
        );
        let problem = done.problem.unwrap();
        assert!(problem.contains("web (echo"), "{problem}");
        assert!(
            problem.contains("it ended with status 3; it said: s stop"),
            "{problem}"
        );
        assert!(!marker.exists());
    }

    #[test]
    fn starting_is_tried_again_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (first, last) = (folder.path().join("first"), folder.path().join("last"));
        let second_time = format!("test -e {0} || {{ touch {0}; false; }}", first.display());
        let done = start(
            "s",
            &steps(&[&second_time, "false", &format!("touch {}", last.display())]),
            2,
        );
        assert_eq!(
            (done.retried.len(), done.problems.len()),
            (2, 1),
            "{done:?}"
        );
        assert!(
            done.problems[0].contains("web (false) failed (2 attempts): it ended with status 1")
        );
        assert!(last.exists());
    }

    #[test]
    fn a_step_comes_back_and_debug_does_not_show_it() {
        let step = steps(&["mysql -phunter2"]).remove(0);
        let text = serde_json::to_string(&step).unwrap();
        let back: Step = serde_json::from_str(&text).unwrap();
        assert_eq!(back.command.expose(), "mysql -phunter2");
        assert_eq!(back.timeout(), Duration::from_secs(60));
    }
}
