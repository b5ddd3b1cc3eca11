//! Services of a stand-in site: real processes, started and stopped by the programs that an administrator would use, such as `ssh` and
//! `systemctl`. Those stand first in the PATH of the commands under test and do what the real ones are asked for.
//!
//! Files in the folder decide how a service behaves: `do-NAME` is the script that it runs, in place of sleeping, and that makes `ready-NAME` when
//! it is up, `after-NAME` one that its stop runs; `stuck-NAME` lets its stop fail, `broken-NAME` its start. `log` has a line for each thing that was asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::place::{Outcome, PATIENCE, Place};

/// `service start|stop NAME`. A process is one of these only if it works in their folder: its number may have gone to another, and one that has
/// ended works nowhere.
const SERVICE: &str = r#"#!/bin/sh
echo "$1 $2" >> "$HERE/log"
pid="$HERE/run/$2.pid"
cd "$HERE" || exit
alive() { test -s "$pid" && test "$(readlink "/proc/$(cat "$pid")/cwd")" = "$HERE"; }
case $1 in
start)
    test -e "$HERE/broken-$2" && { echo "no license for $2"; exit 9; }
    alive && exit 0
    if test -e "$HERE/do-$2"; then
        rm -f "$HERE/ready-$2"
        setsid sh "$HERE/do-$2" < /dev/null > "$HERE/said-$2" 2>&1 &
        echo $! > "$pid"
        while alive && ! test -e "$HERE/ready-$2"; do sleep 0.02; done
        alive || { cat "$HERE/said-$2"; exit 7; }
    else
        setsid sleep 3600 < /dev/null > /dev/null 2>&1 &
        echo $! > "$pid"
    fi
    ;;
stop)
    test -e "$HERE/stuck-$2" && { echo "$2 does not end"; exit 4; }
    alive && kill "$(cat "$pid")"
    while alive; do sleep 0.02; done
    test -e "$HERE/after-$2" && sh "$HERE/after-$2"
    rm -f "$pid"
    ;;
esac
exit 0
"#;

/// The services of a site.
pub(crate) struct Services {
    folder: PathBuf,
}

impl Services {
    /// Installs the programs below a folder.
    pub(crate) fn install(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("run")).unwrap();
        fs::create_dir_all(folder.join("bin")).unwrap();
        let services = Self {
            folder: folder.canonicalize().unwrap(),
        };
        services.program("service", SERVICE);
        services
    }

    /// Writes a program; `$HERE` in it is the folder.
    pub(crate) fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let here = self.folder.display().to_string();
        fs::write(&path, text.replace("$HERE", &here)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts a service as its host does when it boots.
    pub(crate) fn start(&self, names: &[&str]) {
        for name in names {
            let service = self.path("service");
            let status = Command::new("sh")
                .arg(service)
                .args(["start", name])
                .status();
            assert!(status.unwrap().success());
        }
        fs::remove_file(self.path("log")).unwrap();
    }

    /// A command of holdfast that finds these programs first.
    pub(crate) fn command(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = place.command(args);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![self.path("bin")];
        folders.extend(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).unwrap());
        command
    }

    /// Runs such a command.
    pub(crate) fn run(&self, place: &Place, args: &[&str]) -> Outcome {
        Outcome::of(self.command(place, args).output().unwrap())
    }

    /// What was asked for, and forgets it.
    pub(crate) fn take_log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        fs::remove_file(self.path("log")).ok();
        text.lines().map(str::to_owned).collect()
    }

    fn pid(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(&format!("run/{name}.pid"))).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub(crate) fn is_up(&self, name: &str) -> bool {
        let works_in = |pid| fs::read_link(format!("/proc/{pid}/cwd"));
        let folder = self.pid(name).map(works_in);
        folder.is_some_and(|folder| folder.is_ok_and(|folder| folder == self.folder))
    }

    #[track_caller]
    pub(crate) fn assert_up(&self, names: &[&str]) {
        for name in names {
            assert!(self.is_up(name), "{name} is down");
        }
    }

    /// Ends all of them at once, as a power cut does; their PID files stay.
    pub(crate) fn kill(&self) {
        for entry in fs::read_dir(self.path("run")).into_iter().flatten() {
            let name = entry.unwrap().file_name();
            let name = name.to_string_lossy();
            if let Some(name) = name.strip_suffix(".pid").filter(|name| self.is_up(name)) {
                let pid = self.pid(name).unwrap();
                Command::new("kill").args(["-KILL", &pid]).output().ok();
            }
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
