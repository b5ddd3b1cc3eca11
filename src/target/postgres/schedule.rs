//! The order of post-data: which step may run now, while others run. It knows nothing of sessions; who executes the steps says when one has finished.
//!
//! Invariants: (1) a step never starts before one that it depends on has finished (`dependencies_come_first`); (2) no step runs beside one that locks a
//! table that it uses (`what_locks_a_table_runs_alone_on_it`); (3) every step is handed out once, whatever the dependencies say
//! (`a_cycle_does_not_stop_everything`).
//!
//! Threads: one owner behind a lock; `next_step` and `finished` do no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::plan::Step;

/// Hands out the steps of post-data to workers: one by one, each after its dependencies, none beside another that locks what it uses.
#[derive(Debug)]
pub struct Schedule<'a> {
    steps: &'a [Step],
    /// Dependencies within these steps that have not run yet.
    blockers: Vec<usize>,
    dependents: BTreeMap<usize, Vec<usize>>,
    /// Ready steps by wave (foreign keys and what depends on them are in the second) and position in the archive.
    ready: BTreeSet<(bool, usize)>,
    running: BTreeSet<usize>,
    first_wave_left: usize,
    second_wave: Vec<bool>,
}

impl<'a> Schedule<'a> {
    /// A schedule of these steps; dependencies on others count as done.
    pub fn new(steps: &'a [Step]) -> Self {
        let position: HashMap<i32, usize> = steps
            .iter()
            .enumerate()
            .map(|(n, step)| (step.id, n))
            .collect();
        let mut blockers = vec![0; steps.len()];
        let mut dependents: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (n, step) in steps.iter().enumerate() {
            let needed: BTreeSet<usize> = step
                .dependencies
                .iter()
                .filter_map(|id| position.get(id))
                .copied()
                .filter(|on| *on != n)
                .collect();
            blockers[n] = needed.len();
            needed
                .into_iter()
                .for_each(|on| dependents.entry(on).or_default().push(n));
        }
        let second_wave = second_wave(steps, &dependents);
        let ready = (0..steps.len())
            .filter(|n| blockers[*n] == 0)
            .map(|n| (second_wave[n], n))
            .collect();
        let first_wave_left = second_wave.iter().filter(|second| !**second).count();
        Self {
            steps,
            blockers,
            dependents,
            ready,
            running: BTreeSet::new(),
            first_wave_left,
            second_wave,
        }
    }

    /// The next step that may run now. `None`: wait for a running one to finish, or all is done ([`is_done`](Self::is_done)).
    pub fn next_step(&mut self) -> Option<usize> {
        let next = self
            .ready
            .iter()
            .copied()
            .find(|(second, n)| (!second || self.first_wave_left == 0) && self.is_free(*n))
            .or_else(|| self.stuck())?;
        self.ready.remove(&next);
        self.running.insert(next.1);
        Some(next.1)
    }

    /// A cycle among dependencies would stop everything: when nothing runs and nothing is ready, the first waiting step goes.
    fn stuck(&mut self) -> Option<(bool, usize)> {
        if !self.running.is_empty() || !self.ready.is_empty() {
            return None;
        }
        let waiting = (0..self.steps.len()).find(|n| self.blockers[*n] > 0)?;
        self.blockers[waiting] = 0;
        Some((self.second_wave[waiting], waiting))
    }

    fn is_free(&self, n: usize) -> bool {
        let step = &self.steps[n];
        self.running
            .iter()
            .map(|other| &self.steps[*other])
            .all(|other| !conflict(step, other) && !conflict(other, step))
    }

    /// Says that a step has run, well or not.
    pub fn finished(&mut self, n: usize) {
        self.running.remove(&n);
        if !self.second_wave[n] {
            self.first_wave_left -= 1;
        }
        for dependent in self.dependents.get(&n).cloned().unwrap_or_default() {
            // A step that was let go although it waited has no blockers left to count.
            if self.blockers[dependent] > 0 {
                self.blockers[dependent] -= 1;
                if self.blockers[dependent] == 0 {
                    self.ready.insert((self.second_wave[dependent], dependent));
                }
            }
        }
    }

    /// Whether every step was handed out and has finished.
    pub fn is_done(&self) -> bool {
        self.ready.is_empty()
            && self.running.is_empty()
            && self.blockers.iter().all(|left| *left == 0)
    }
}

fn conflict(locker: &Step, other: &Step) -> bool {
    locker
        .locks
        .iter()
        .any(|id| other.dependencies.contains(id))
}

fn second_wave(steps: &[Step], dependents: &BTreeMap<usize, Vec<usize>>) -> Vec<bool> {
    let mut second = vec![false; steps.len()];
    let mut waiting: Vec<usize> = (0..steps.len())
        .filter(|n| steps[*n].is_foreign_key())
        .collect();
    while let Some(n) = waiting.pop() {
        if !std::mem::replace(&mut second[n], true) {
            waiting.extend(dependents.get(&n).into_iter().flatten());
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::postgres::plan::tests::{entry, tiny, toc_of};
    use crate::target::postgres::plan::{Plan, PlanOptions};
    use crate::target::postgres::toc::{Entry, Section};

    /// Runs a schedule with so many workers, always finishing the one that `pick` chooses; returns the order of starts.
    fn run(steps: &[Step], workers: usize, mut pick: impl FnMut(usize) -> usize) -> Vec<usize> {
        let mut schedule = Schedule::new(steps);
        let (mut running, mut order): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        loop {
            while running.len() < workers {
                let Some(next) = schedule.next_step() else {
                    break;
                };
                for other in &running {
                    assert!(
                        !conflict(&steps[next], &steps[*other])
                            && !conflict(&steps[*other], &steps[next]),
                        "{next} beside {other}"
                    );
                }
                running.push(next);
                order.push(next);
            }
            if running.is_empty() {
                break;
            }
            let done = running.remove(pick(running.len()));
            schedule.finished(done);
        }
        assert!(schedule.is_done());
        order
    }

    #[test]
    fn foreign_keys_come_after_everything_else() {
        let plan = Plan::new(&tiny(), &PlanOptions::default()).unwrap();
        let order = run(&plan.post_data, 3, |_| 0);
        let kinds: Vec<&str> = order
            .iter()
            .map(|n| plan.post_data[*n].label.as_str())
            .collect();
        assert_eq!(
            kinds[kinds.len() - 2..],
            [
                "FK CONSTRAINT public.child child_parent_fkey",
                "COMMENT public.CONSTRAINT child_parent_fkey ON child"
            ]
        );
        assert_eq!(kinds.len(), plan.post_data.len());
    }

    #[test]
    fn what_locks_a_table_runs_alone_on_it() {
        let toc = toc_of(vec![
            entry(1, "TABLE", Section::PreData, &[]),
            entry(2, "TABLE", Section::PreData, &[]),
            entry(10, "INDEX", Section::PostData, &[1]),
            entry(11, "INDEX", Section::PostData, &[1]),
            entry(12, "CONSTRAINT", Section::PostData, &[1]),
            entry(13, "TRIGGER", Section::PostData, &[2]),
        ]);
        let plan = Plan::new(&toc, &PlanOptions::default()).unwrap();
        let mut schedule = Schedule::new(&plan.post_data);
        let first: Vec<Option<usize>> = (0..4).map(|_| schedule.next_step()).collect();
        // Two indexes side by side, the constraint of the same table waits, the trigger of another table does not.
        assert_eq!(first, [Some(0), Some(1), Some(3), None]);
        schedule.finished(0);
        assert_eq!(schedule.next_step(), None);
        schedule.finished(1);
        assert_eq!(schedule.next_step(), Some(2));
        assert!(!schedule.is_done());
    }

    #[test]
    fn a_cycle_does_not_stop_everything() {
        let toc = toc_of(vec![
            entry(1, "RULE", Section::PostData, &[2]),
            entry(2, "RULE", Section::PostData, &[1]),
        ]);
        let plan = Plan::new(&toc, &PlanOptions::default()).unwrap();
        assert_eq!(run(&plan.post_data, 2, |_| 0).len(), 2);
    }

    proptest! {
        #[test]
        fn dependencies_come_first(
            shape in proptest::collection::vec((0u8..4, proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 0..6i32), 1..30),
            workers in 1usize..5,
            picks in proptest::collection::vec(any::<prop::sample::Index>(), 30),
        ) {
            let kinds = ["INDEX", "CONSTRAINT", "FK CONSTRAINT", "TRIGGER"];
            let mut entries: Vec<Entry> = (0..6).map(|id| entry(id, "TABLE", Section::PreData, &[])).collect();
            for (n, (kind, on, table)) in shape.iter().enumerate() {
                let mut dependencies = vec![*table];
                if n > 0 {
                    dependencies.extend(on.iter().map(|i| 100 + i32::try_from(i.index(n)).unwrap()));
                }
                entries.push(entry(100 + i32::try_from(n).unwrap(), kinds[usize::from(*kind)], Section::PostData, &dependencies));
            }
            let plan = Plan::new(&toc_of(entries), &PlanOptions::default()).unwrap();
            let mut picks = picks.into_iter().cycle();
            let order = run(&plan.post_data, workers, |len| picks.next().unwrap().index(len));
            prop_assert_eq!(order.len(), shape.len());
            let place: HashMap<i32, usize> = order.iter().enumerate().map(|(at, n)| (plan.post_data[*n].id, at)).collect();
            for step in &plan.post_data {
                for on in step.dependencies.iter().filter_map(|id| place.get(id)) {
                    prop_assert!(on < &place[&step.id]);
                }
            }
        }
    }
}
