//! Who gets a connection at the beginning: each database needs one that holds its snapshot, and one more for
//! a moment, for `pg_dump`.
//!
//! One database of each address connects first and learns which server that is and what it allows. The
//! others follow as far as there is room. What is refused all the same (others connect too) waits; only a
//! server that gives not even one connection makes a database fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::budget::{Budget, Lease};
use super::cluster::{Identity, Server};
use super::error::DumpError;
use super::limits::{Allowed, Limits};
use super::open::{Opening, Slot, in_parallel};
use super::{DatabaseSource, Locks};
use crate::error::Error;
use crate::source::postgres::{Connector, PgError, PgSession, RetryPolicy};

/// Logins at a time.
const LOGINS_AT_ONCE: usize = 16;
/// How often a wish for an end is looked for in a pause.
const LOOK: Duration = Duration::from_millis(100);

/// Returns how many connections the snapshot of a database takes.
pub(super) fn connections_needed(source: &DatabaseSource) -> usize {
    match source.options.locks {
        Locks::Optimistic => 1,
        Locks::Hold => 2,
    }
}

/// A session, the server that it is with, and what that allows.
struct First {
    session: PgSession,
    identity: Identity,
    limits: Limits,
}

/// Connects all databases as far as there is room. What waits is [`DumpError::NoConnection`], with its server.
pub(super) fn connect_all(
    sources: &[DatabaseSource],
) -> (Vec<Option<Arc<Server>>>, Vec<Slot<Opening>>) {
    let mut addresses: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (position, source) in sources.iter().enumerate() {
        let settings = &source.settings;
        let address = format!("{:?} {:?}", settings.hosts, settings.target_session_attrs);
        addresses.entry(address).or_default().push(position);
    }
    let mut groups: Vec<Vec<usize>> = addresses.into_values().collect();
    groups.sort();
    let firsts = in_parallel(groups.iter().collect(), LOGINS_AT_ONCE, |members| {
        first_of(sources, members)
    });

    let mut known: BTreeMap<String, Arc<Server>> = BTreeMap::new();
    let mut servers: Vec<Option<Arc<Server>>> = vec![None; sources.len()];
    let mut slots: Vec<Option<Slot<Opening>>> = sources.iter().map(|_| None).collect();
    let mut next = Vec::new();
    for (members, (failed, first)) in groups.iter().zip(firsts) {
        for (position, error) in failed {
            slots[position] = Some(Err(error));
        }
        let Some((leader, first)) = first else {
            continue;
        };
        let server = known
            .entry(first.identity.server.clone())
            .or_insert_with(|| new_server(sources, leader, &first));
        for position in members.iter().filter(|n| slots[**n].is_none()) {
            servers[*position] = Some(Arc::clone(server));
        }
        slots[leader] = Some(
            match server
                .budget
                .try_admit(connections_needed(&sources[leader]))
            {
                Some(lease) => Ok(Opening::new(
                    first.session,
                    Arc::clone(server),
                    lease,
                    first.limits.of_database(),
                )),
                None => Err(DumpError::NoConnection(too_many(server))),
            },
        );
    }
    for (position, source) in sources.iter().enumerate() {
        let (None, Some(server)) = (&slots[position], &servers[position]) else {
            continue;
        };
        match server.budget.try_admit(connections_needed(source)) {
            Some(lease) => next.push((position, Arc::clone(server), lease)),
            None => slots[position] = Some(Err(DumpError::NoConnection(too_many(server)))),
        }
    }
    let connected = in_parallel(next, LOGINS_AT_ONCE, |(position, server, lease)| {
        (position, connect(&sources[position], &server, lease))
    });
    for (position, slot) in connected {
        slots[position] = Some(slot);
    }
    let missing = || DumpError::Failed("no connection was tried".to_owned());
    let slots = slots
        .into_iter()
        .map(|slot| slot.unwrap_or_else(|| Err(missing())));
    let slots: Vec<Slot<Opening>> = slots.collect();
    warn_of_waiting(&servers, &slots);
    (servers, slots)
}

type Firsts = (Vec<(usize, DumpError)>, Option<(usize, First)>);

/// Connects the first database of an address that can be connected.
fn first_of(sources: &[DatabaseSource], members: &[usize]) -> Firsts {
    let mut failed = Vec::new();
    for position in members {
        let mut source = sources[*position].clone();
        if !failed.is_empty() {
            // The first one has been patient for all.
            source.options.retry = RetryPolicy::once();
        }
        match first(&source) {
            Ok(first) => return (failed, Some((*position, first))),
            Err(error) => failed.push((*position, error)),
        }
    }
    (failed, None)
}

fn first(source: &DatabaseSource) -> Slot<First> {
    let mut session = Connector::new(source.settings.clone()).connect(&source.options.session())?;
    Ok(First {
        identity: Identity::read(&mut session)?,
        limits: Limits::read(&mut session)?,
        session,
    })
}

fn new_server(sources: &[DatabaseSource], leader: usize, first: &First) -> Arc<Server> {
    let allowed = first
        .limits
        .of_server(sources[leader].options.connections_max);
    tracing::debug!(
        server = first.identity.server,
        connections = allowed.connections,
        reason = allowed.reason,
        "connections of this run"
    );
    Arc::new(Server {
        identity: first.identity.clone(),
        budget: Budget::new(allowed.connections),
        limit: allowed.reason,
    })
}

pub(super) fn too_many(server: &Server) -> String {
    format!(
        "there may be {} connections: {}",
        server.budget.limit(),
        server.limit
    )
}

/// One warning for each server whose databases cannot all be open at once.
fn warn_of_waiting(servers: &[Option<Arc<Server>>], slots: &[Slot<Opening>]) {
    let mut warned: Vec<&str> = Vec::new();
    for (server, slot) in servers.iter().zip(slots) {
        let (Some(server), Err(DumpError::NoConnection(reason))) = (server, slot) else {
            continue;
        };
        let name = server.identity.server.as_str();
        if warned.contains(&name) {
            continue;
        }
        warned.push(name);
        let of_server = || {
            servers.iter().zip(slots).filter(|(other, _)| {
                other
                    .as_ref()
                    .is_some_and(|other| other.identity.server == name)
            })
        };
        let waiting = of_server().filter(|(_, slot)| slot.is_err()).count();
        tracing::warn!(
            "{waiting} of {} databases of one cluster wait for a connection, their snapshots are later than the others': {reason}",
            of_server().count()
        );
    }
}

/// Connects one more database of a known server.
pub(super) fn connect(
    source: &DatabaseSource,
    server: &Arc<Server>,
    lease: Lease,
) -> Slot<Opening> {
    let connector = Connector::new(source.settings.clone());
    let options = source.options.session();
    let mut once = source.options.session();
    once.retry = RetryPolicy::once();
    let opened = match connector.connect(&once) {
        Err(error) if error.is_connection_limit() => {
            drop(lease);
            return Err(refused(server, &error));
        }
        Err(_may_pass) => connector.connect(&options),
        opened => opened,
    };
    let mut session = opened?;
    server.budget.connected();
    let limits = Limits::read(&mut session)?;
    Ok(Opening::new(
        session,
        Arc::clone(server),
        lease,
        limits.of_database(),
    ))
}

/// Takes note of a refusal, and puts the limits beside the server's words.
fn refused(server: &Server, error: &PgError) -> DumpError {
    server.budget.refused();
    DumpError::NoConnection(format!("{error}; {}", too_many(server)))
}

/// Runs a child that needs a connection of its own. Where the server has none for it, it is tried again after pauses: others may have ended.
/// `ended` says why nobody wants it any more.
pub(super) fn with_child<T>(
    source: &DatabaseSource,
    server: &Server,
    connector: &Connector,
    allowed: Option<&Allowed>,
    ended: &dyn Fn() -> Option<Error>,
    run: impl Fn() -> Slot<T>,
) -> Slot<T> {
    let unwanted = || DumpError::Run(ended().unwrap_or(Error::Stopped));
    let retry = &source.options.retry;
    let mut round = 1;
    loop {
        let is_unwanted = || ended().is_some();
        let child = server.budget.child(&is_unwanted).ok_or_else(unwanted)?;
        let words = match run() {
            Err(DumpError::Failed(words)) => words,
            other => return other,
        };
        // A child's message may be in any language; a login of our own gets a code.
        let mut probe = source.options.session();
        probe.retry = RetryPolicy::once();
        match connector.connect(&probe) {
            Err(error) if error.is_connection_limit() => drop(child),
            _ => return Err(DumpError::Failed(words)),
        }
        server.budget.refused();
        let limit = match allowed {
            Some(allowed) => allowed.reason.clone(),
            None => too_many(server),
        };
        let words = format!(
            "pg_dump needs a connection beside the one that holds the snapshot: {words}; {limit}"
        );
        if server.budget.is_shared(connections_needed(source)) {
            return Err(DumpError::NoConnection(words));
        }
        if round >= retry.tries {
            return Err(DumpError::Failed(words));
        }
        let end = Instant::now() + retry.pause_after(round);
        while Instant::now() < end {
            if ended().is_some() {
                return Err(unwanted());
            }
            thread::sleep(LOOK);
        }
        round += 1;
    }
}
