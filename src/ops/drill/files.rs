//! Shares, lists, certificates and paths: restored into the scratch folder, compared with the archive, removed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use super::{ComponentDrill, Stage};
use crate::error::{Error, Result};
use crate::format::snapshot::Component;
use crate::ops::restore::{RestoreOptions, TroubleKind, restore};
use crate::ops::verify::{AgainstOptions, DifferenceKind, against};
use crate::target::files::Ownership;

/// What a restored database takes for each byte of its rows as text, with its indexes: a guess on the safe side.
const DATABASE_FACTOR: u64 = 3;

/// Refuses a drill that the scratch space can't hold.
pub(super) fn check_space(
    stage: &Stage<'_>,
    files: &[Component],
    databases: &[Component],
) -> Result<()> {
    let percent = u64::from(stage.options.sample.percent());
    let files = files.iter().map(|c| c.totals.bytes / 100 * percent);
    let private = stage.options.server.is_none();
    let databases = databases
        .iter()
        .filter(|_| private)
        .map(|c| c.totals.bytes.saturating_mul(DATABASE_FACTOR));
    // One is there at a time.
    let wanted = files.chain(databases).max().unwrap_or(0);
    let stat = rustix::fs::statvfs(&stage.folder).map_err(|errno| {
        let place = stage.folder.display();
        Error::local(
            format!("cannot ask how much is free in {place}"),
            errno.into(),
        )
    })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < wanted {
        return Err(Error::Message(format!(
            "the drill needs about {} MiB of scratch space and {} MiB are free in {}; \
             name another place with --scratch, or restore a part with --sample",
            wanted >> 20,
            free >> 20,
            stage.options.scratch.display()
        )));
    }
    Ok(())
}

/// Restores a component and compares it.
pub(super) fn exercise(stage: &mut Stage<'_>, component: &Component) -> Result<ComponentDrill> {
    let begun = Instant::now();
    let mut found = ComponentDrill {
        kind: component.kind.folder(),
        name: component.name.clone(),
        ..ComponentDrill::default()
    };
    let path = component.path.iter().map(|name| name.as_slice());
    let Ok(path) = String::from_utf8(path.collect::<Vec<_>>().join(&b'/')) else {
        found.problem("its path is no UTF-8 text; restore it by hand".into());
        return Ok(found);
    };
    let spec = format!("{}:{path}", stage.id());
    let target = stage.folder.join("files");
    let failed = |e| Error::local(format!("cannot make {}", target.display()), e);
    fs::create_dir(&target).map_err(failed)?;
    // What is restored keeps its own rights below; nobody else gets in.
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let place = target.join("restored");
    let ownership = match rustix::process::geteuid().is_root() {
        true => Ownership::ByName,
        false => Ownership::Leave,
    };
    let troubles = Mutex::new(Vec::new());
    let keep = |damaged: bool, text: String| {
        let mut troubles = troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.push((damaged, text));
    };
    let options = RestoreOptions {
        ownership,
        sample: stage.options.sample,
        threads: Some(stage.jobs()),
        ..RestoreOptions::default()
    };
    let restored = restore(
        stage.repository,
        &spec,
        &place,
        &options,
        stage.stats,
        stage.interrupt,
        &|trouble| keep(trouble.kind == TroubleKind::Damaged, trouble.to_string()),
    )?;
    found.items = restored.files;
    found.bytes = restored.bytes_written;
    let options = AgainstOptions {
        ownership,
        sample: stage.options.sample,
        threads: Some(stage.jobs()),
    };
    against(
        stage.repository,
        &spec,
        &place,
        &options,
        stage.stats,
        stage.interrupt,
        &|difference| {
            let damaged = difference.kind == DifferenceKind::Damaged;
            keep(damaged, difference.to_string());
        },
    )?;
    for (damaged, text) in troubles
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        stage.damaged += u64::from(damaged);
        found.problem(text);
    }
    fs::remove_dir_all(&target)
        .map_err(|e| Error::local(format!("cannot remove {}", target.display()), e))?;
    found.seconds = begun.elapsed().as_secs_f64();
    Ok(found)
}
