//! What a backup would stop and start, and whether the commands for it are there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Check, Verdict};
use crate::ops::backup::Environment;
use crate::site::SiteFile;
use crate::site::config::run::CommandSetting;

/// Words at the beginning of a command that the shell knows itself.
const SHELL_WORDS: &[&str] = &[
    "!", ".", ":", "[", "cd", "command", "echo", "eval", "exec", "exit", "export", "false", "for",
    "if", "kill", "printf", "read", "set", "test", "time", "trap", "true", "ulimit", "umask",
    "until", "wait", "while", "case",
];

/// Looks at the commands of the quiet window, of file-system snapshots and of hooks; none where there are none.
pub(super) fn check(site: &SiteFile, environment: &Environment) -> Option<Check> {
    let mut check = Check::new("quiesce", &site.name);
    let mut commands: Vec<&CommandSetting> = Vec::new();
    if let Some(quiesce) = site.quiesce.as_ref().filter(|q| !q.stop.is_empty()) {
        let titles = |settings: &[CommandSetting]| {
            let titles: Vec<String> = settings.iter().map(CommandSetting::title).collect();
            titles.join("; ")
        };
        check.add(
            Verdict::Good,
            format!("would be stopped by: {}", titles(&quiesce.stop)),
        );
        check.add(
            Verdict::Good,
            format!(
                "and started by: {}; at the latest after {} s (window-max)",
                titles(&quiesce.start),
                quiesce.window_max.as_secs()
            ),
        );
        commands.extend(quiesce.stop.iter().chain(&quiesce.start));
    }
    let snapshots = site
        .shares
        .iter()
        .filter_map(|share| share.snapshot.as_ref());
    commands.extend(snapshots.flat_map(|hook| [&hook.create, &hook.remove]));
    commands.extend(&site.hooks.on_failure);
    commands.extend(&site.hooks.on_success);
    if commands.is_empty() {
        return None;
    }
    let path = environment("PATH").unwrap_or_default();
    let mut missing: Vec<&str> = commands
        .iter()
        .filter_map(|setting| program(setting.command.expose()))
        .filter(|program| !is_there(program, &path))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    for program in missing {
        check.add(
            Verdict::Note,
            format!("{program} is no program on this host, but a command begins with it"),
        );
    }
    if check.verdict == Verdict::Good {
        check.add(Verdict::Good, "the programs of all commands are there");
    }
    Some(check)
}

/// The program that a command begins with, where that can be told without being a shell.
fn program(command: &str) -> Option<&str> {
    let word = command.split_whitespace().next()?;
    let plain = |c: char| c.is_alphanumeric() || "/._-+[:!".contains(c);
    (word.chars().all(plain) && !SHELL_WORDS.contains(&word)).then_some(word)
}

fn is_there(program: &str, path: &std::ffi::OsStr) -> bool {
    let is_program = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    match program.contains('/') {
        true => is_program(Path::new(program)),
        false => std::env::split_paths(path).any(|folder| is_program(&folder.join(program))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn programs_that_are_not_there_are_named() {
        let text = "[site]\nname = \"s\"\n[quiesce]\n\
                    stop = [\"nonesuch stop\", \"FOO=1 nonesuch2\", \"/bin/sh -c x\", \"cd / && x\", \"sh -c y\"]\n\
                    start = [\"/nonesuch/start token=hunter2hunter2\"]\n[hooks]\non-failure = \"nonesuch stop\"\n";
        let site = SiteFile::parse(text, Path::new("site.toml")).unwrap();
        let environment: Environment = Arc::new(|_| Some("/usr/bin:/bin".into()));
        let check = check(&site, &environment).unwrap();
        let notes: Vec<&str> = check
            .findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Note)
            .map(|finding| finding.text.split(' ').next().unwrap())
            .collect();
        assert_eq!(notes, ["/nonesuch/start", "nonesuch"]);
        assert!(check.findings[0].text.contains("nonesuch stop; FOO=1"));
        assert!(check.findings[1].text.contains("after 1800 s"));
        assert!(!format!("{check:?}").contains("hunter2"));
    }
}
