//! The components of a site, each taken into its place in the tree. A component that fails leaves nothing and harms no other.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::at_rest::AtRest;
use super::engine::Engine;
use super::{BackupOptions, databases, now};
use crate::error::{Error, Result};
use crate::format::node::{Node, NodeKind};
use crate::format::snapshot::{
    CertificateFact, ClusterConsistency, Component, ComponentKind, ComponentState, QuietWindow,
};
use crate::ops::quiesce::Mark;
use crate::pipeline::{ItemWriter, StreamKind, TreePath};
use crate::site::SiteFile;
use crate::site::config::{CertificatesSettings, FilesSettings, Missing, ShareSettings};
use crate::site::lists::{Expanded, expand_certificates, expand_files};
use crate::source::SourceError;
use crate::source::certificates::{expiring, read_certificates};
use crate::source::files::{Detection, Parent, Roots, TreeOutcome, TreeSource, identity, walk};
use crate::store::Repository;

/// How long reading the password of `.pfx` files may take.
const PASSWORD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// What all components came to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) components: Vec<Component>,
    pub(super) certificates: Vec<CertificateFact>,
    pub(super) clusters: Vec<ClusterConsistency>,
    pub(super) window: Option<QuietWindow>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// Refuses what can't be right before anything is touched.
pub(super) fn check_arguments(repository: &Repository, options: &BackupOptions) -> Result<()> {
    let site = options.site.as_deref();
    let nothing = options.paths.is_empty()
        && options.databases.is_empty()
        && site.is_none_or(|site| {
            site.databases.is_empty()
                && site.shares.is_empty()
                && site.files.is_empty()
                && site.certificates.is_empty()
        });
    if nothing {
        return Err(Error::Message(
            "there is nothing to back up: give a path, --database or a site file".into(),
        ));
    }
    let Some(root) = repository
        .backend()
        .local_path()
        .and_then(|path| path.canonicalize().ok())
    else {
        return Ok(());
    };
    let shares = site
        .map(|site| site.shares.iter().map(|share| &share.path))
        .into_iter()
        .flatten();
    for path in options.paths.iter().chain(shares) {
        if path
            .canonicalize()
            .is_ok_and(|path| path.starts_with(&root))
        {
            let text = format!(
                "{} lies inside the repository {}: a repository is not backed up into itself",
                path.display(),
                root.display()
            );
            return Err(Error::Message(text));
        }
    }
    Ok(())
}

/// One tree that is to be walked.
struct Tree {
    kind: ComponentKind,
    name: String,
    source: TreeSource,
    origin: String,
    allow_empty: bool,
    missing: Missing,
    /// Set where the component failed before anything was read.
    failure: Option<String>,
    notes: Vec<String>,
}

/// Takes every component. An error stops the run; the site is up again in any case.
pub(super) fn take_all(
    engine: &Engine,
    options: &BackupOptions,
    mut rest: AtRest<'_>,
) -> Result<Taken> {
    let mut taken = Taken::default();
    let mut open = None;
    let later = take_at_rest(engine, options, &mut rest, &mut taken, &mut open);
    // Before anything else is done about an error.
    rest.start();
    take_trees(engine, options, &mut later?, &mut rest, &mut taken)?;
    rest.remove_snapshots();
    if let Some(open) = open {
        databases::ask_references(engine, &open)?;
        databases::stream(engine, options, open, &mut taken)?;
    }
    for component in &taken.components {
        if component.state == ComponentState::Failed {
            let place = format!("{}/{}", component.kind.folder(), component.name);
            let reason = format!("{place} failed");
            engine.references.distrust_files(&place, &reason);
            engine.references.distrust_rows(&component.name, &reason);
        }
    }
    rest.judge(&mut taken);
    Ok(taken)
}

/// Takes what can be taken only while the site is at rest; returns what is read from file-system snapshots afterwards.
fn take_at_rest(
    engine: &Engine,
    options: &BackupOptions,
    rest: &mut AtRest<'_>,
    taken: &mut Taken,
    open: &mut Option<databases::Open>,
) -> Result<Vec<Tree>> {
    rest.stop(engine)?;
    let databases = open.insert(databases::open(engine, options)?);
    rest.opened(databases);
    rest.make_snapshots(engine)?;
    if let Some(site) = &options.site {
        taken.components.push(site_file(engine, site)?);
    }
    let (mut trees, mut later) = (Vec::new(), Vec::new());
    if let Some(site) = &options.site {
        for share in &site.shares {
            let tree = share_tree(share, site, options, rest);
            match share.snapshot {
                Some(_) => later.push(tree),
                None => trees.push(tree),
            }
        }
        trees.extend(site.files.iter().map(|files| files_tree(files, site)));
        for certificates in &site.certificates {
            trees.push(certificates_tree(
                certificates,
                site,
                &mut taken.certificates,
            ));
        }
    }
    trees.extend(options.paths.iter().map(|path| path_tree(path, options)));
    take_trees(engine, options, &mut trees, rest, taken)?;
    // A site that starts may alter its tables first of all.
    if let (true, Some(databases)) = (rest.is_quiet(), open) {
        databases::finish_schemas(engine, databases)?;
    }
    Ok(later)
}

/// Walks trees, all at the same time.
fn take_trees(
    engine: &Engine,
    options: &BackupOptions,
    trees: &mut [Tree],
    rest: &mut AtRest<'_>,
    taken: &mut Taken,
) -> Result<()> {
    let walked = std::thread::scope(|scope| {
        let threads: Vec<_> = trees
            .iter_mut()
            .map(|tree| {
                scope.spawn(|| {
                    let component = take_tree(engine, options, tree);
                    (component, Mark::now())
                })
            })
            .collect();
        let panicked = |_| {
            let text = "a thread that walks a tree panicked; this is a bug in holdfast";
            (Err(Error::Message(text.into())), Mark::now())
        };
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .collect::<Vec<_>>()
    });
    for (component, read) in walked {
        let component = component?;
        rest.read(&component, read);
        taken.components.push(component);
    }
    Ok(())
}

fn folder(kind: ComponentKind, name: &str) -> TreePath {
    TreePath::root()
        .join(kind.folder().as_bytes())
        .join(name.as_bytes())
}

fn site_file(engine: &Engine, site: &SiteFile) -> Result<Component> {
    let text = site.redacted().into_bytes();
    let path = TreePath::root().join(b"site").join(b"site.toml");
    let started = now();
    let size = u64::try_from(text.len()).expect("a length fits 64 bits");
    put_bytes(engine, &path, &text, StreamKind::File { size })?;
    Ok(Component {
        kind: ComponentKind::Site,
        name: "site.toml".into(),
        path: vec![b"site".to_vec().into(), b"site.toml".to_vec().into()],
        started,
        finished: now(),
        origin: site.path.display().to_string(),
        ..Component::default()
    })
}

/// Stores bytes that we made ourselves as a file at `path`.
pub(super) fn put_bytes(
    engine: &Engine,
    path: &TreePath,
    bytes: &[u8],
    kind: StreamKind,
) -> Result<()> {
    let queue = engine.sink.pool.source_queue();
    let mut writer = ItemWriter::queued(&queue, kind, true);
    writer.write(bytes)?;
    let item = writer.finish_wait()?;
    let name = path.names().last().unwrap_or_default().to_vec();
    let size = u64::try_from(bytes.len()).expect("a length fits 64 bits");
    let node = Node {
        name,
        kind: NodeKind::File,
        mode: 0o600,
        modified: now(),
        size,
        content: item.content,
        digest: item.digest,
        ..Node::default()
    };
    engine.sink.add_node(path, node)
}

/// Why the path of a share is not known.
fn unfound(options: &BackupOptions, share: &str) -> Option<String> {
    let mut unfound = options.unfound_shares.iter();
    unfound
        .find(|(name, _)| name == share)
        .map(|(_, why)| why.clone())
}

fn share_tree(
    share: &ShareSettings,
    site: &SiteFile,
    options: &BackupOptions,
    rest: &AtRest<'_>,
) -> Tree {
    let hook = share.snapshot.as_ref();
    let path = hook.map_or(&share.path, |hook| &hook.path);
    let mut source = TreeSource::new(
        Roots::Tree(path.clone()),
        folder(ComponentKind::Share, &share.name),
    );
    source.excludes.clone_from(&share.exclude);
    source.one_file_system = share.one_file_system;
    source.cachedir_tag = share.cachedir_tag;
    source.readers = share
        .readers
        .or(site.limits.readers)
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    Tree {
        kind: ComponentKind::Share,
        name: share.name.clone(),
        source,
        origin: share.path.display().to_string(),
        allow_empty: share.allow_empty,
        missing: Missing::Error,
        failure: rest
            .snapshot_failure(&share.name)
            .or_else(|| unfound(options, &share.name)),
        notes: hook
            .map(|hook| {
                format!(
                    "read from a file-system snapshot at {}",
                    hook.path.display()
                )
            })
            .into_iter()
            .collect(),
    }
}

fn list_tree(kind: ComponentKind, name: &str, expanded: &Expanded, missing: Missing) -> Tree {
    let source = TreeSource::new(Roots::List(expanded.paths.clone()), folder(kind, name));
    let mut notes = Vec::new();
    if missing != Missing::Ok {
        let unmatched = expanded.unmatched.iter();
        notes.extend(unmatched.map(|e| {
            format!(
                "{}:{}: {} matches nothing",
                e.file.display(),
                e.line,
                Path::new(&e.pattern).display()
            )
        }));
    }
    notes.extend(
        expanded
            .unreadable
            .iter()
            .map(|(path, e)| format!("{}: {e}", path.display())),
    );
    let failure =
        (missing == Missing::Error && !expanded.unmatched.is_empty()).then(|| notes.join("; "));
    Tree {
        kind,
        name: name.to_owned(),
        source,
        origin: format!("{} paths", expanded.paths.len()),
        allow_empty: true,
        missing,
        failure,
        notes,
    }
}

fn files_tree(files: &FilesSettings, site: &SiteFile) -> Tree {
    match expand_files(files, &site.path) {
        Ok(expanded) => list_tree(ComponentKind::Files, &files.name, &expanded, files.missing),
        Err(e) => {
            let mut tree = list_tree(
                ComponentKind::Files,
                &files.name,
                &Expanded::default(),
                files.missing,
            );
            tree.failure = Some(chain(&e));
            tree
        }
    }
}

fn certificates_tree(
    settings: &CertificatesSettings,
    site: &SiteFile,
    facts: &mut Vec<CertificateFact>,
) -> Tree {
    let expanded = expand_certificates(settings, &site.path);
    let mut tree = list_tree(
        ComponentKind::Certificates,
        &settings.name,
        &expanded,
        settings.missing,
    );
    let password = match settings
        .password
        .as_ref()
        .map(|source| source.read("the .pfx password", PASSWORD_TIMEOUT))
    {
        None => None,
        Some(Ok(loaded)) => {
            tree.notes.extend(loaded.warning);
            Some(loaded.value)
        }
        Some(Err(e)) => {
            tree.notes.push(chain(&e));
            None
        }
    };
    let found = read_certificates(
        &expanded.paths,
        password.as_ref().map(crate::site::secrets::Secret::expose),
    );
    for fact in expiring(&found, now().seconds, settings.warn_before_expiry) {
        let path = String::from_utf8_lossy(&fact.path).into_owned();
        tree.notes.push(format!(
            "{path}: {} expires soon or has expired",
            fact.subject
        ));
    }
    facts.extend(
        found
            .into_iter()
            .map(|fact| fact.into_record(&settings.name)),
    );
    tree
}

fn path_tree(path: &Path, options: &BackupOptions) -> Tree {
    let absolute = std::path::absolute(path).unwrap_or_else(|_e| path.to_path_buf());
    let top = TreePath::root().join(ComponentKind::Path.folder().as_bytes());
    let is_directory = std::fs::metadata(&absolute).is_ok_and(|m| m.is_dir());
    let (roots, base) = if is_directory {
        let names = absolute.components().filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        });
        (
            Roots::Tree(absolute.clone()),
            names.fold(top, |path, name| path.join(name)),
        )
    } else {
        (Roots::List(vec![absolute.clone()]), top)
    };
    let mut source = TreeSource::new(roots, base);
    source.excludes.clone_from(&options.excludes);
    source.one_file_system = options.one_file_system;
    source.cachedir_tag = options.cachedir_tag;
    Tree {
        kind: ComponentKind::Path,
        name: absolute.display().to_string(),
        source,
        origin: absolute.display().to_string(),
        allow_empty: false,
        missing: Missing::Error,
        failure: None,
        notes: Vec::new(),
    }
}

fn take_tree(engine: &Engine, options: &BackupOptions, tree: &mut Tree) -> Result<Component> {
    let started = now();
    let source = &mut tree.source;
    source.digest = options.content_digest;
    source.readers = options.readers.or(source.readers);
    if options.force_read {
        source.detection = Detection::ReadAll;
    }
    if let Some(root) = engine.repository.backend().local_path() {
        source.never.extend(identity(root).ok());
    }
    let parent = engine.parent(tree.kind, &tree.name, &source.base);
    let mut component = Component {
        kind: tree.kind,
        name: tree.name.clone(),
        path: source
            .base
            .names()
            .map(|name| name.to_vec().into())
            .collect(),
        started,
        parent: parent.as_ref().map(|parent| parent.snapshot),
        notes: std::mem::take(&mut tree.notes),
        origin: tree.origin.clone(),
        ..Component::default()
    };
    let base = source.base.clone();
    if let Some(failure) = tree.failure.take() {
        return fail(engine, component, &base, failure);
    }
    if let Some(subtree) = parent.as_ref().and_then(|parent| parent.node.subtree) {
        engine.sink.stats.bytes_expected.add(subtree.bytes);
    }
    let parent = parent.map(|parent| Parent {
        tree: engine.parent_tree(),
        node: parent.node,
        started: parent.started,
    });
    let outcome = match walk(source, parent.as_ref(), started, &engine.sink) {
        Ok(outcome) => outcome,
        Err(SourceError::Component(message)) => return fail(engine, component, &base, message),
        Err(SourceError::Run(e)) => return Err(e),
    };
    if outcome.looks_unmounted() && !tree.allow_empty {
        let message = format!(
            "{} is empty, although the last snapshot had files there: is it not mounted?",
            tree.origin
        );
        return fail(engine, component, &base, message);
    }
    if tree.kind == ComponentKind::Path && !outcome.missing.is_empty() {
        return fail(
            engine,
            component,
            &base,
            format!("{} does not exist", tree.origin),
        );
    }
    let missing: Vec<String> = outcome
        .missing
        .iter()
        .map(|path| format!("{} is missing", path.display()))
        .collect();
    if tree.missing == Missing::Error && !missing.is_empty() {
        return fail(engine, component, &base, missing.join("; "));
    }
    if tree.missing == Missing::Warn {
        component.notes.extend(missing);
    }
    fill(&mut component, outcome);
    Ok(component)
}

fn fill(component: &mut Component, outcome: TreeOutcome) {
    component.finished = now();
    component.totals = outcome.totals;
    component.skipped = outcome.skipped;
    component.torn = outcome.torn;
    component.inode_trusted = outcome.inode_trusted;
    component.notes.extend(outcome.notes);
    if outcome.skipped > 0 || outcome.torn > 0 {
        component.state = ComponentState::Incomplete;
        component.message = format!(
            "{} skipped, {} changed while they were read",
            outcome.skipped, outcome.torn
        );
    }
}

/// Marks a component as failed; nothing of it stays in the tree.
pub(super) fn fail(
    engine: &Engine,
    mut component: Component,
    base: &TreePath,
    message: String,
) -> Result<Component> {
    tracing::warn!(component = %component.name, "{message}");
    engine.sink.discard(base)?;
    component.state = ComponentState::Failed;
    component.message = message;
    component.finished = now();
    component.parent = None;
    Ok(component)
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
