//! The connections to one server: how many there may be, and which database gets the next one.
//!
//! Two limits. `limit` bounds everything that is connected at a time: sessions that hold a snapshot, sessions
//! that copy, children. `copies_max` bounds what copies at a time. A session that holds a snapshot copies
//! too when it is its turn; another one is opened beside it only where no waiting snapshot has as much to do.
//!
//! Invariants:
//! 1. Leases never exceed the limit, but for the first database and the first child, without which nothing would go on
//!    (`the_limit_holds`).
//! 2. The database whose next piece is the largest is served first (`the_largest_piece_comes_first`).
//! 3. Whoever has nothing left to copy holds neither a turn nor a connection beside that of its snapshot
//!    (`a_small_database_gives_way`).
//! 4. A server that refuses a connection is left alone for a while, longer each time (`refusals_are_waited_out`).
//!
//! Threads: one mutex, never held while a server is waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often waiting threads look around: for a wish for an end, and for a pause that has passed.
const LOOK: Duration = Duration::from_millis(100);
/// What a new connection costs, as bytes that could be copied meanwhile; also how much more than its own piece makes a worker change over.
const CONNECTION_BYTES: u64 = 16 << 20;
/// How long a server takes to end a session that said goodbye; until then it counts.
const LINGER: Duration = Duration::from_millis(25);
/// The first and the longest pause after a refused connection.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The connections to one server.
#[derive(Debug)]
pub(super) struct Budget {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What was asked for.
    ceiling: usize,
    /// What the server has given so far, once it has refused one.
    limit: usize,
    /// Connections of databases, and of children.
    held: usize,
    children: usize,
    /// Connections that were given back, and until when the server may still count them.
    leaving: Vec<(Instant, usize)>,
    copies_max: usize,
    copying: usize,
    /// Databases that have no snapshot yet.
    waiting: usize,
    refusals: u32,
    not_before: Option<Instant>,
    warned: bool,
    copiers: BTreeMap<u64, Copier>,
    next_number: u64,
}

/// A database that copies or wants to.
#[derive(Clone, Copy, Debug, Default)]
struct Copier {
    /// Pieces that nobody has begun.
    pieces: usize,
    /// Bytes of the next of them.
    bytes: u64,
    /// Who copies now.
    active: usize,
    /// Whether the session of the snapshot is among them.
    own_active: bool,
    /// How many may.
    active_max: usize,
}

/// Who gets the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// Bytes of the piece, less what a new connection costs.
    bytes: u64,
    /// No connection is needed.
    own: bool,
    /// Among equals the first.
    first: std::cmp::Reverse<u64>,
}

impl State {
    fn room(&self, count: usize) -> bool {
        // After a pause one more than the server had for us is tried.
        let more = usize::from(self.limit < self.ceiling && !self.is_paused());
        self.held + self.children + self.lingering() + count <= self.limit + more
    }

    fn lingering(&self) -> usize {
        let now = Instant::now();
        let leaving = self.leaving.iter().filter(|(until, _)| *until > now);
        leaving.map(|(_, count)| count).sum()
    }

    fn claim(&self, number: u64, copier: &Copier) -> Option<Claim> {
        if copier.pieces == 0 || copier.active >= copier.active_max {
            return None;
        }
        let own = !copier.own_active;
        // Databases without a snapshot need a connection for their schema.
        let reserve = usize::from(self.waiting > 0);
        if !own && (!self.room(1 + reserve) || self.is_paused()) {
            return None;
        }
        Some(Claim {
            bytes: match own {
                true => copier.bytes,
                false => copier.bytes.saturating_sub(CONNECTION_BYTES),
            },
            own,
            first: std::cmp::Reverse(number),
        })
    }

    fn best(&self) -> Option<(u64, Claim)> {
        let claims = self.copiers.iter();
        claims
            .filter_map(|(number, copier)| Some((*number, self.claim(*number, copier)?)))
            .max_by_key(|(_, claim)| *claim)
    }

    fn is_paused(&self) -> bool {
        self.not_before.is_some_and(|time| time > Instant::now())
    }
}

/// The limit of a server was reached; says whether nobody has said so yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Connections of this run that are left.
    pub(super) left: usize,
    /// The first refusal.
    pub(super) first: bool,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ceiling: limit.max(1),
                limit: limit.max(1),
                held: 0,
                children: 0,
                leaving: Vec::new(),
                copies_max: 1,
                copying: 0,
                waiting: 0,
                refusals: 0,
                not_before: None,
                warned: false,
                copiers: BTreeMap::new(),
                next_number: 0,
            }),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let limit = match state.lingering() {
            0 => LOOK,
            _ => LINGER,
        };
        self.changed
            .wait_timeout(state, limit)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Returns how many connections there may be.
    pub(super) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Lets at least so many connections copy at a time.
    pub(super) fn raise_copies_max(&self, count: usize) {
        let mut state = self.lock();
        state.copies_max = state.copies_max.max(count);
        drop(state);
        self.changed.notify_all();
    }

    /// Counts a database that waits for its snapshot.
    pub(super) fn will_wait(&self) {
        self.lock().waiting += 1;
    }

    /// Counts a database that waits no more: it has its snapshot, or failed.
    pub(super) fn waits_no_more(&self) {
        self.lock().waiting -= 1;
        self.changed.notify_all();
    }

    /// Takes the connections of a database's snapshot if there is room, with one more left for its child.
    pub(super) fn try_admit(self: &Arc<Self>, count: usize) -> Option<Lease> {
        let mut state = self.lock();
        if state.held + state.lingering() > 0 && !state.room(count + 1) {
            return None;
        }
        state.held += count;
        Some(self.lease(count, false))
    }

    /// Waits until there is room for a database; `None` when nobody wants it any more.
    pub(super) fn admit(
        self: &Arc<Self>,
        count: usize,
        is_unwanted: &dyn Fn() -> bool,
    ) -> Option<Lease> {
        let mut state = self.lock();
        while state.held + state.lingering() > 0 && (!state.room(count + 1) || state.is_paused()) {
            if is_unwanted() {
                return None;
            }
            state = self.wait(state);
        }
        state.held += count;
        Some(self.lease(count, false))
    }

    /// Waits until there is room for a child; `None` when nobody wants it any more.
    pub(super) fn child(self: &Arc<Self>, is_unwanted: &dyn Fn() -> bool) -> Option<Lease> {
        let mut state = self.lock();
        while state.children + state.lingering() > 0 && !state.room(1) {
            if is_unwanted() {
                return None;
            }
            state = self.wait(state);
        }
        state.children += 1;
        Some(self.lease(1, true))
    }

    fn lease(self: &Arc<Self>, count: usize, child: bool) -> Lease {
        Lease {
            budget: Arc::clone(self),
            count,
            child,
        }
    }

    /// Takes note of a refused connection, whose lease was given back: there are no more than those that are held.
    pub(super) fn refused(&self) -> Refused {
        let mut state = self.lock();
        let left = state.held + state.children;
        state.limit = state.limit.min(left.max(1));
        let factor = 2_u32.saturating_pow(state.refusals);
        state.refusals += 1;
        state.not_before = Some(Instant::now() + (PAUSE_FIRST * factor).min(PAUSE_MAX));
        let first = !std::mem::replace(&mut state.warned, true);
        Refused { left, first }
    }

    /// Takes note of a connection that the server gave: there may be as many as now.
    pub(super) fn connected(&self) {
        let mut state = self.lock();
        if state.limit < state.ceiling {
            state.limit = state.limit.max(state.held + state.children);
            state.refusals = 0;
        }
    }

    /// Says whether other databases hold connections beside `count` of one's own.
    pub(super) fn is_shared(&self, count: usize) -> bool {
        self.lock().held > count
    }

    /// Lets a database take part; `active_max` is how many of its connections may copy at a time.
    pub(super) fn join(self: &Arc<Self>, active_max: usize) -> Member {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        let copier = Copier {
            active_max: active_max.max(1),
            ..Copier::default()
        };
        state.copiers.insert(number, copier);
        Member {
            budget: Arc::clone(self),
            number,
        }
    }
}

/// Connections that are held.
#[derive(Debug)]
pub(super) struct Lease {
    budget: Arc<Budget>,
    count: usize,
    child: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        match self.child {
            true => state.children -= self.count,
            false => state.held -= self.count,
        }
        let now = Instant::now();
        state.leaving.retain(|(until, _)| *until > now);
        state.leaving.push((now + LINGER, self.count));
        drop(state);
        self.budget.changed.notify_all();
    }
}

/// A database's place among those that copy.
#[derive(Debug)]
pub(super) struct Member {
    budget: Arc<Budget>,
    number: u64,
}

/// A turn to copy.
#[derive(Debug)]
pub(super) struct Turn {
    budget: Arc<Budget>,
    number: u64,
    own: bool,
    /// The connection to open; none where it is the turn of the session that holds the snapshot.
    pub(super) extra: Option<Lease>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.copying -= 1;
        if let Some(copier) = state.copiers.get_mut(&self.number) {
            copier.active -= 1;
            copier.own_active &= !self.own;
        }
        drop(state);
        self.budget.changed.notify_all();
    }
}

impl Member {
    /// Says what is left to begin.
    pub(super) fn left(&self, pieces: usize, bytes: u64) {
        let mut state = self.budget.lock();
        let more = match state.copiers.get_mut(&self.number) {
            Some(copier) => {
                let more = pieces > copier.pieces;
                (copier.pieces, copier.bytes) = (pieces, bytes);
                more
            }
            None => false,
        };
        let wake = more || pieces == 0 || state.copying < state.copies_max;
        drop(state);
        if wake {
            self.budget.changed.notify_all();
        }
    }

    /// Waits for the next turn; `None` when nothing is left to begin and nobody copies any more. Called from one thread.
    pub(super) fn next_turn(&self, is_unwanted: &dyn Fn() -> bool) -> Option<Turn> {
        let mut state = self.budget.lock();
        loop {
            let copier = state.copiers.get(&self.number).copied()?;
            let unwanted = is_unwanted();
            if (unwanted || copier.pieces == 0) && copier.active == 0 {
                return None;
            }
            let best = match unwanted || state.copying >= state.copies_max {
                true => None,
                false => state.best().filter(|(number, _)| *number == self.number),
            };
            let Some((_, claim)) = best else {
                state = self.budget.wait(state);
                continue;
            };
            state.copying += 1;
            if !claim.own {
                state.held += 1;
            }
            let copier = state.copiers.get_mut(&self.number)?;
            copier.active += 1;
            copier.own_active |= claim.own;
            drop(state);
            // The next one may have its turn too.
            self.budget.changed.notify_all();
            return Some(Turn {
                budget: Arc::clone(&self.budget),
                number: self.number,
                own: claim.own,
                extra: (!claim.own).then(|| self.budget.lease(1, false)),
            });
        }
    }

    /// Says whether another database has so much more to do that a worker of this one should change over.
    pub(super) fn should_give_way(&self) -> bool {
        let state = self.budget.lock();
        let Some(own) = state.copiers.get(&self.number) else {
            return true;
        };
        let limit = own.bytes.saturating_mul(2).saturating_add(CONNECTION_BYTES);
        state.copying >= state.copies_max
            && state
                .best()
                .is_some_and(|(number, claim)| number != self.number && claim.bytes > limit)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.budget.lock().copiers.remove(&self.number);
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const WANTED: &dyn Fn() -> bool = &|| false;
    const UNWANTED: &dyn Fn() -> bool = &|| true;
    const MIB: u64 = 1 << 20;

    #[test]
    fn the_limit_holds() {
        let budget = Budget::new(4);
        let first = budget.try_admit(1).unwrap();
        let second = budget.try_admit(2).unwrap();
        assert!(budget.try_admit(1).is_none(), "one is left for a child");
        assert!(budget.admit(1, UNWANTED).is_none());
        let child = budget.child(WANTED).unwrap();
        assert!(budget.child(UNWANTED).is_none());
        drop((first, second, child));
        assert!(budget.try_admit(1).is_none(), "the server still ends them");
        thread::sleep(LINGER);
        // The first of all always goes on.
        let whole = budget.try_admit(9).unwrap();
        assert!(budget.child(UNWANTED).is_some());
        drop(whole);
        thread::sleep(LINGER);
        assert!(budget.try_admit(3).is_some());
    }

    #[test]
    fn the_largest_piece_comes_first() {
        let budget = Budget::new(8);
        budget.raise_copies_max(3);
        let (small, large) = (budget.join(9), budget.join(9));
        small.left(5, MIB);
        large.left(5, 100 * MIB);
        let state = |budget: &Budget| {
            budget
                .lock()
                .best()
                .map(|(number, claim)| (number, claim.own))
        };
        assert_eq!(state(&budget), Some((large.number, true)));
        let own = large.next_turn(WANTED).unwrap();
        assert!(own.extra.is_none());
        let extra = large.next_turn(WANTED).unwrap();
        assert!(extra.extra.is_some());
        // For a piece that costs less than a connection the waiting session of another database is taken.
        large.left(3, 2 * MIB);
        let third = small.next_turn(WANTED).unwrap();
        assert!(third.extra.is_none());
        assert_eq!(budget.lock().copying, 3);
        drop((own, extra, third));
        let state = budget.lock();
        assert_eq!((state.copying, state.held), (0, 0));
    }

    #[test]
    fn a_small_database_gives_way() {
        let budget = Budget::new(8);
        budget.raise_copies_max(1);
        let (small, large) = (budget.join(9), budget.join(9));
        small.left(5, 10 * MIB);
        let turn = small.next_turn(WANTED).unwrap();
        assert!(!small.should_give_way());
        large.left(1, 20 * MIB);
        assert!(!small.should_give_way(), "not much larger");
        large.left(1, 40 * MIB);
        assert!(small.should_give_way());
        drop(turn);
        let turn = large.next_turn(WANTED).unwrap();
        large.left(0, 0);
        drop(turn);
        assert!(large.next_turn(WANTED).is_none());
        assert!(small.next_turn(UNWANTED).is_none());
    }

    #[test]
    fn a_database_has_a_limit_of_its_own() {
        let budget = Budget::new(8);
        budget.raise_copies_max(8);
        let member = budget.join(2);
        member.left(9, 100 * MIB);
        let turns = [member.next_turn(WANTED), member.next_turn(WANTED)];
        assert!(turns.iter().all(Option::is_some));
        assert!(budget.lock().best().is_none());
    }

    #[test]
    fn refusals_are_waited_out() {
        let budget = Budget::new(8);
        budget.raise_copies_max(8);
        let lease = budget.try_admit(1).unwrap();
        let member = budget.join(8);
        member.left(9, 100 * MIB);
        let own = member.next_turn(WANTED).unwrap();
        let extra = member.next_turn(WANTED).unwrap();
        drop(extra);
        thread::sleep(LINGER);
        let refused = budget.refused();
        assert_eq!(
            refused,
            Refused {
                left: 1,
                first: true
            }
        );
        assert!(!budget.refused().first);
        assert!(budget.lock().best().is_none());
        assert_eq!(budget.lock().limit, 1);
        budget.lock().not_before = None;
        let extra = member.next_turn(WANTED).unwrap();
        assert!(budget.lock().best().is_none(), "one more is tried, not all");
        budget.connected();
        assert_eq!(budget.lock().limit, 2);
        drop(extra);
        drop((lease, own));
    }

    #[test]
    fn one_connection_is_left_for_the_schema_of_who_waits() {
        let budget = Budget::new(3);
        budget.raise_copies_max(8);
        let lease = budget.try_admit(1).unwrap();
        budget.will_wait();
        let member = budget.join(8);
        member.left(9, 100 * MIB);
        let turns = [member.next_turn(WANTED), member.next_turn(WANTED)];
        assert_eq!(budget.lock().held, 2);
        assert!(budget.lock().best().is_none());
        budget.waits_no_more();
        assert!(budget.lock().best().is_some());
        drop((lease, turns));
    }
}
