//! A run that gives way to others: less processor time, and the disk only when nobody else wants it.
//!
//! Both are properties of a thread that its later threads and children inherit. So the guardian is started before: services that it starts
//! shall not be slow.

use std::process::{Command, Stdio};

use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::gettid;

/// How nice the run is at least.
const NICE: i32 = 10;

/// Lowers the priority of this thread. What can't be done is a warning: the run is only less polite.
pub(super) fn lower() {
    let nice = getpriority_process(None).unwrap_or(0).max(NICE);
    if let Err(errno) = setpriority_process(None, nice) {
        tracing::warn!("the run can't be made nice: {errno}");
    }
    // No call of the standard libraries sets it; util-linux's tool does.
    let ionice = Command::new("ionice")
        .args(["-c", "3", "-p", &gettid().as_raw_nonzero().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match ionice {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::warn!("the run can't be made last at the disk: ionice: {status}"),
        Err(e) => tracing::warn!("the run can't be made last at the disk: ionice: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_children_inherit_it() {
        // In a thread of its own, so that other tests stay quick.
        let thread = std::thread::spawn(|| {
            lower();
            let child = Command::new("nice").output().unwrap();
            let of_child: i32 = String::from_utf8_lossy(&child.stdout)
                .trim()
                .parse()
                .unwrap();
            let class = Command::new("ionice").output().unwrap();
            (
                of_child,
                String::from_utf8_lossy(&class.stdout).into_owned(),
            )
        });
        let (nice, class) = thread.join().unwrap();
        assert!(nice >= NICE, "{nice}");
        assert!(class.starts_with("idle"), "{class}");
    }
}
