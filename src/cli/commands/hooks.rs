//! `[hooks]`: who is told how a run ended.

use holdfast::site::command::{Surroundings, run};
use holdfast::site::config::run::HookSettings;
use serde_json::json;

use crate::cli::output::json_line;
use crate::cli::{exit_code, failure_text, progress};

/// Runs the hook that is due, with the report on its stdin: what `--json` prints, and the failure if there is one. A hook that fails is a
/// warning: the run came out as it did.
pub(super) fn tell(
    site: &str,
    hooks: &HookSettings,
    done: &anyhow::Result<u8>,
    report: &mut Vec<u8>,
) {
    let code = match done {
        Ok(code) => *code,
        Err(failure) => exit_code(failure),
    };
    let (step, hook) = match code {
        0 => ("on-success", &hooks.on_success),
        _ => ("on-failure", &hooks.on_failure),
    };
    let Some(hook) = hook else {
        return;
    };
    if let Err(failure) = done {
        let fields = json!({"message": failure_text(failure), "code": code});
        report.extend(json_line("error", &fields).unwrap_or_default());
    }
    let code = code.to_string();
    let finished = run(
        hook,
        &Surroundings {
            environment: &[
                ("HOLDFAST_SITE", site),
                ("HOLDFAST_STEP", step),
                ("HOLDFAST_EXIT_CODE", &code),
            ],
            stdin: Some(report),
            stop: None,
        },
    );
    if !finished.is_good() {
        progress::warning(&format!("the {step} hook {finished}"));
    }
}
