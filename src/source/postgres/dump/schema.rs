//! The children: `pg_dump` for the schema of a database, `pg_dumpall` for the globals of its cluster.
//!
//! Their output goes into an unnamed temporary file, so that its size costs no memory and nothing is left
//! behind. A child counts as done only when it has exited with 0.
//!
//! `pg_dump` takes ACCESS SHARE locks while it runs. It is not left waiting for one: others would queue up
//! behind the tables that it holds already. It gives up soon and is started again.
//!
//! The schema dump runs in a thread of its own ([`SchemaDump`]), beside whatever is read in the same snapshot:
//! it has one core of the server to itself for a while, and COPY gets the others. Where all tables are held it
//! is waited for first, because only then nothing can come between.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::catalog::identifier;
use super::cluster::Server;
use super::error::{DumpError, local};
use super::limits::Allowed;
use super::{DatabaseSource, admission, unreadable};
use crate::error::Error;
use crate::source::postgres::pgtools::ToolPlaces;
use crate::source::postgres::{Connector, PgTool, StopFlag, find_tool, release_waves, replay};

/// How long `pg_dump` waits for one lock.
const LOCK_WAIT_MS: u32 = 3_000;
/// The same where the dump holds all tables: whoever is in the way waits for these locks and does not go away.
const LOCK_WAIT_HELD_MS: u32 = 300;
const PAUSE: Duration = Duration::from_millis(500);
/// How often a wish for an end is looked for.
const PAUSE_STOP: Duration = Duration::from_millis(100);
/// How often the end of a schema dump is looked for.
const PAUSE_END: Duration = Duration::from_millis(5);
/// Encodings that no conversion leads away from: their bytes are dumped as they are.
const WITHOUT_CONVERSION: &[&str] = &["SQL_ASCII", "MULE_INTERNAL"];

/// What a child has written.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// The version of the tool that wrote it.
    pub(super) version: String,
    /// What a person should know about it.
    pub(super) notes: Vec<String>,
}

impl Output {
    /// Hands its bytes on, from the start.
    pub(super) fn read<E: From<DumpError>>(
        &self,
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error: io::Error| E::from(local("cannot read a temporary file", error));
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(()),
                count => each(&buffer[..count])?,
            }
        }
    }
}

/// What the schema dump needs to know.
#[derive(Clone, Debug)]
pub(super) struct SchemaRequest {
    pub(super) connector: Connector,
    pub(super) version_num: u32,
    pub(super) snapshot: String,
    pub(super) standby: bool,
    /// Encoding of the database.
    pub(super) encoding: String,
    /// Whether a session of the dump holds all tables.
    pub(super) held: bool,
    /// Schemas and names of sequences that this role may not read.
    pub(super) closed_sequences: Vec<(String, String)>,
    pub(super) source: DatabaseSource,
}

/// Says whether a child should end.
#[derive(Clone, Debug)]
struct Unwanted {
    stop: StopFlag,
    given_up: Arc<AtomicBool>,
}

impl Unwanted {
    fn is_set(&self) -> bool {
        self.error().is_some()
    }

    /// Returns what a child that nobody wants ends with.
    fn error(&self) -> Option<Error> {
        if self.stop.is_set() {
            return Some(Error::Interrupted);
        }
        let given_up = self.given_up.load(Ordering::Relaxed);
        given_up.then_some(Error::Stopped)
    }
}

/// A schema dump that runs, or has ended. Dropped, it ends its child.
#[derive(Debug)]
pub(super) struct SchemaDump {
    thread: Option<JoinHandle<Result<Output, DumpError>>>,
    /// There already, where it was waited for.
    output: Option<Output>,
    given_up: Arc<AtomicBool>,
}

impl SchemaDump {
    /// Starts it, as soon as there is a connection for it. A tool that is missing is an error at once.
    pub(super) fn start(
        request: SchemaRequest,
        server: Arc<Server>,
        allowed: Option<Allowed>,
    ) -> Result<Self, DumpError> {
        let given_up = Arc::new(AtomicBool::new(false));
        let unwanted = Unwanted {
            stop: request.source.options.stop.clone(),
            given_up: Arc::clone(&given_up),
        };
        let tool = tool(
            "pg_dump",
            request.version_num,
            &request.source.options.tools,
        )?;
        let thread = thread::Builder::new()
            .name("holdfast-schema".to_owned())
            .spawn(move || {
                let (source, connector) = (&request.source, &request.connector);
                let ended = || unwanted.error();
                let allowed = allowed.as_ref();
                admission::with_child(source, &server, connector, allowed, &ended, || {
                    dump_schema(&tool, &request, &unwanted)
                })
            })
            .map_err(|error| local("cannot start a thread", error))?;
        Ok(Self {
            thread: Some(thread),
            output: None,
            given_up,
        })
    }

    /// Says whether it was waited for, before anything else was read.
    pub(super) fn is_ready(&self) -> bool {
        self.output.is_some()
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<(), DumpError> {
        if self.output.is_none() {
            self.output = Some(self.end(|| true)?);
        }
        Ok(())
    }

    /// Waits until it has ended, or is no longer `wanted`.
    pub(super) fn finish(mut self, wanted: impl Fn() -> bool) -> Result<Output, DumpError> {
        match self.output.take() {
            Some(output) => Ok(output),
            None => self.end(wanted),
        }
    }

    fn end(&mut self, wanted: impl Fn() -> bool) -> Result<Output, DumpError> {
        let Some(thread) = self.thread.take() else {
            return Err(DumpError::Run(Error::Stopped));
        };
        while !thread.is_finished() {
            if !wanted() {
                self.given_up.store(true, Ordering::Relaxed);
            }
            thread::sleep(PAUSE_END);
        }
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for SchemaDump {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("a schema dump that nobody wanted ended badly");
        }
    }
}

/// Dumps everything but the data of a database, as of its snapshot.
fn dump_schema(
    tool: &PgTool,
    request: &SchemaRequest,
    unwanted: &Unwanted,
) -> Result<Output, DumpError> {
    let options = &request.source.options;
    let mut arguments: Vec<OsString> = [
        "-Fc",
        "-Z0",
        "-B",
        "-C",
        "-w",
        "--section=pre-data",
        "--section=post-data",
    ]
    .map(OsString::from)
    .to_vec();
    // The restore speaks UTF-8, and so do the names beside the rows.
    if !WITHOUT_CONVERSION.contains(&request.encoding.as_str()) {
        arguments.push("--encoding=UTF8".into());
    }
    arguments.push(format!("--snapshot={}", request.snapshot).into());
    let wait_ms = match request.held {
        true => LOCK_WAIT_HELD_MS,
        false => LOCK_WAIT_MS,
    };
    arguments.push(format!("--lock-wait-timeout={wait_ms}").into());
    arguments.extend(
        options
            .exclude_schema
            .iter()
            .map(|schema| format!("--exclude-schema={schema}").into()),
    );
    // Although nobody wants them, it would read their positions.
    for (schema, name) in &request.closed_sequences {
        let name = format!("{}.{}", identifier(schema), identifier(name));
        arguments.push(format!("--exclude-table-data={name}").into());
    }
    if request.standby {
        arguments.push("--no-unlogged-table-data".into());
    }
    let deadline = Instant::now() + options.lock_wait;
    loop {
        match run(tool, &arguments, &request.connector, unwanted)? {
            Ok(mut output) => {
                output.notes.extend(older(tool, request.version_num));
                without_unreadable(&mut output, options.strip_pg_attver)?;
                return Ok(output);
            }
            // An ALTER waits for the locks that we hold, and pg_dump behind it: nobody would ever move. Whoever begins again lets it through.
            Err(words) if waits_for_a_lock(&words) && request.held => {
                return Err(DumpError::Queue(format!(
                    "somebody waits behind the held locks, and pg_dump behind that: {words}"
                )));
            }
            Err(words)
                if waits_for_a_lock(&words) && Instant::now() < deadline && !unwanted.is_set() =>
            {
                tracing::debug!(%words, "pg_dump got no lock, trying again");
                thread::sleep(PAUSE);
            }
            Err(words) if replay::is_conflict(&words) => return Err(DumpError::Replay(words)),
            Err(words) if is_a_changed_definition(&words) => return Err(DumpError::Restart(words)),
            Err(words) => return Err(DumpError::Failed(words)),
        }
    }
}

/// Dumps roles, tablespaces and settings of a cluster.
pub(super) fn dump_globals(
    connector: &Connector,
    version_num: u32,
    passwords: bool,
    places: &ToolPlaces,
    stop: &StopFlag,
) -> Result<Output, DumpError> {
    let tool = tool("pg_dumpall", version_num, places)?;
    let mut arguments: Vec<OsString> = ["--globals-only", "-w"].map(OsString::from).to_vec();
    // A connection string, so that no name is taken for one.
    let dbname = &connector.settings().dbname;
    let dbname = dbname.replace('\\', "\\\\").replace('\'', "\\'");
    arguments.push(format!("--database=dbname='{dbname}'").into());
    // Without it the passwords are read from a catalog that is closed to most.
    if !passwords {
        arguments.push("--no-role-passwords".into());
    }
    let unwanted = Unwanted {
        stop: stop.clone(),
        given_up: Arc::default(),
    };
    run(&tool, &arguments, connector, &unwanted)?.map_err(DumpError::Failed)
}

fn tool(name: &str, version_num: u32, places: &ToolPlaces) -> Result<PgTool, DumpError> {
    find_tool(name, version_num, places).map_err(|error| DumpError::Failed(error.to_string()))
}

/// Runs a tool; returns its output, or its own words where it failed.
fn run(
    tool: &PgTool,
    arguments: &[OsString],
    connector: &Connector,
    unwanted: &Unwanted,
) -> Result<Result<Output, String>, DumpError> {
    let name = tool.path.display().to_string();
    let environment = connector.child_environment()?;
    let file =
        tempfile::tempfile().map_err(|error| local("cannot make a temporary file", error))?;
    let stdout = file
        .try_clone()
        .map_err(|error| local("cannot use a temporary file", error))?;
    let mut command = Command::new(&tool.path);
    // Messages are told apart by their English words.
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("LC_MESSAGES", "C")
        .env_remove("LC_ALL");
    environment.apply(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| local(&format!("cannot start {name}"), error))?;
    let errors = child
        .stderr
        .take()
        .map(|stream| thread::spawn(move || words_of(stream)));
    // Through a pipe: into a file that it can seek in, pg_dump writes the table of contents twice.
    let copier = child.stdout.take().map(|mut stream| {
        let (done, ended) = crossbeam_channel::bounded::<()>(0);
        let copier = thread::spawn(move || {
            let copied = io::copy(&mut stream, &mut &stdout);
            drop(done);
            copied
        });
        (copier, ended)
    });
    let mut stopped = false;
    let copied = match copier {
        None => Ok(0),
        Some((copier, ended)) => {
            // A server that says nothing keeps its child waiting for ever; who asks for an end does not wait with it.
            while !copier.is_finished()
                && ended.recv_timeout(PAUSE_STOP) == Err(RecvTimeoutError::Timeout)
            {
                if unwanted.is_set() && !stopped {
                    stopped = true;
                    child
                        .kill()
                        .map_err(|error| local(&format!("cannot end {name}"), error))?;
                }
            }
            copier
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }
    };
    let status = child
        .wait()
        .map_err(|error| local(&format!("cannot wait for {name}"), error))?;
    let words = errors
        .and_then(|reader| reader.join().ok())
        .unwrap_or_default();
    if stopped {
        return Err(DumpError::Run(unwanted.error().unwrap_or(Error::Stopped)));
    }
    copied.map_err(|error| local(&format!("cannot keep the output of {name}"), error))?;
    if !status.success() {
        let words = if words.is_empty() {
            format!("ended with {status}")
        } else {
            words
        };
        return Ok(Err(format!("{name}: {words}")));
    }
    if !words.is_empty() {
        tracing::warn!(tool = name, "{words}");
    }
    Ok(Ok(Output {
        file,
        version: tool.version.text.clone(),
        notes: Vec::new(),
    }))
}

/// Reads what a child says, shortened to what a person reads: its errors, where there are any, and of them the first.
fn words_of(stream: impl Read) -> String {
    const WORDS_MAX: usize = 4096;
    let mut stream = BufReader::new(stream);
    let (mut words, mut errors) = (String::new(), false);
    let mut line = Vec::new();
    loop {
        line.clear();
        // The child must not block on a full pipe, so that all is read.
        match stream.by_ref().take(1 << 20).read_until(b'\n', &mut line) {
            Ok(0) => return words,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot read the messages of a child");
                return words;
            }
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        let is_error = [
            "pg_dump: error: ",
            "pg_dumpall: error: ",
            "pg_dump: [archiver",
            "pg_dumpall: [archiver",
        ]
        .iter()
        .any(|sign| text.starts_with(sign));
        if is_error && !errors {
            // What the server told before is not the reason.
            (words, errors) = (String::new(), true);
        }
        if text.is_empty() || words.len() >= WORDS_MAX {
            continue;
        }
        if !words.is_empty() {
            words.push_str("; ");
        }
        words.extend(text.chars().take(WORDS_MAX));
    }
}

fn waits_for_a_lock(words: &str) -> bool {
    words.contains("Query was: LOCK TABLE")
        && !words.contains("does not exist")
        && !words.contains("permission denied")
}

fn is_a_changed_definition(words: &str) -> bool {
    [
        "does not exist",
        "cache lookup failed",
        "could not open relation with OID",
        "could not find",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

/// Says that a tool is older than the server, if it is.
fn older(tool: &PgTool, server_num: u32) -> Option<String> {
    let words = release_waves::tool_is_older("pg_dump", tool.version.num, server_num)?;
    tracing::warn!("{words}");
    Some(words)
}

/// Refuses a schema with settings that no server reads back, or takes them out.
fn without_unreadable(output: &mut Output, strip: bool) -> Result<(), DumpError> {
    let count = unreadable::settings(&output.file, strip)
        .map_err(|error| local("cannot read a temporary file", error))?;
    match count {
        0 => Ok(()),
        _ if strip => {
            output.notes.push(format!(
                "{count} settings pg_attver of columns, which nothing reads back, were taken out of the schema"
            ));
            Ok(())
        }
        _ => Err(DumpError::Failed(format!(
            "pg_dump {} writes settings of columns (pg_attver, {count} times) that no server reads back; install a pg_dump of the \
             same or a later minor release than the server's, or set strip-pg-attver = true",
            output.version
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn output(text: &[u8]) -> Output {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Output {
            file,
            version: "15.18".to_owned(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn settings_that_cannot_be_restored_are_refused_or_taken_out() {
        let text = b"CREATE TABLE t ();\nALTER TABLE t ALTER COLUMN a SET (pg_attver=1);\n";
        assert!(without_unreadable(&mut output(b"CREATE TABLE t ();\n"), false).is_ok());
        assert!(matches!(
            without_unreadable(&mut output(text), false),
            Err(DumpError::Failed(words)) if words.contains("strip-pg-attver")
        ));
        let mut stripped = output(text);
        without_unreadable(&mut stripped, true).unwrap();
        assert_eq!(stripped.notes.len(), 1);
        assert!(without_unreadable(&mut stripped, false).is_ok());
    }

    #[test]
    fn of_many_words_the_error_is_kept() {
        let noise = "WARNING:  of the server\n\n".repeat(1000);
        let error = "pg_dump: error: query failed: ERROR:  no\npg_dump: detail: Query was: x\n";
        let expected = "pg_dump: error: query failed: ERROR:  no; pg_dump: detail: Query was: x";
        assert_eq!(words_of(format!("{noise}{error}").as_bytes()), expected);
        let words = words_of(noise.as_bytes());
        assert!(words.starts_with("WARNING:  of the server; WARNING") && words.len() < 8192);
        assert_eq!(words_of(&b""[..]), "");
    }

    #[test]
    fn failures_are_told_apart() {
        let timeout = "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout; pg_dump: detail: Query was: LOCK TABLE public.t IN ACCESS SHARE MODE";
        let dropped = "pg_dump: error: query failed: ERROR:  relation \"public.t\" does not exist; pg_dump: detail: Query was: LOCK TABLE public.t IN ACCESS SHARE MODE";
        let denied = "pg_dump: error: query failed: ERROR:  permission denied for table t; pg_dump: detail: Query was: LOCK TABLE public.t";
        assert!(
            waits_for_a_lock(timeout) && !waits_for_a_lock(dropped) && !waits_for_a_lock(denied)
        );
        assert!(is_a_changed_definition(dropped) && !is_a_changed_definition(denied));
    }
}
