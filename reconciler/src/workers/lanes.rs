//! Limits how many passes run at once. Namespaces take turns, so that one tenant's burst of pods does not delay
//! another's pods.
//!
//! Guarantees: while n namespaces wait, each of them gets every n-th turn, however many pods it has; within a
//! namespace, the first to come is the first to go. Caveat: a running pass is never interrupted.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::plan::Write;

/// Passes at once, by lane; more of them would only lengthen the API server's queue. Few of them are starts: each
/// start brings a guest that puts load on the API server, and the pods already under way would wait longer for their
/// next steps (`hack/bench reconciler --pods 100 --starts 8` compares).
const STARTS_AT_ONCE: usize = 2;
const LIFTS_AT_ONCE: usize = 16;
const OTHERS_AT_ONCE: usize = 16;

/// The three lanes for passes, so that a burst of new or ended pods does not delay pods whose nodes exist already. In
/// each lane, namespaces take turns.
pub struct Lanes {
    /// Passes that are about to create something for a pod.
    starts: Lane,
    /// Pods whose VM runs, until the gate is lifted.
    lifts: Lane,
    others: Lane,
}

impl Lanes {
    /// Lanes that admit this many starts at once, or as many as is usual.
    #[must_use]
    pub fn new(starts_at_once: Option<NonZeroUsize>) -> Self {
        Self {
            starts: Lane::new(starts_at_once.map_or(STARTS_AT_ONCE, NonZeroUsize::get)),
            lifts: Lane::new(LIFTS_AT_ONCE),
            others: Lane::new(OTHERS_AT_ONCE),
        }
    }

    /// The lane for a pass that would make these writes, as far as they are known before the pass.
    #[must_use]
    pub fn lane(&self, writes: &[Write]) -> &Lane {
        if writes.iter().any(Write::starts) {
            &self.starts
        } else if writes.iter().any(Write::leads_to_lift) {
            &self.lifts
        } else {
            &self.others
        }
    }
}

/// A lane for passes of one kind. Clones are the same lane.
#[derive(Clone)]
pub struct Lane(Arc<Mutex<State>>);

struct State {
    /// Permits left; above zero only if no pass waits.
    free: usize,
    waiting: Queue<oneshot::Sender<Permit>>,
}

/// The right to one pass; dropping it passes it on to the next waiter.
pub struct Permit(Lane);

/// The waiters, by namespace.
struct Queue<T> {
    lanes: HashMap<String, VecDeque<T>>,
    /// The waiting namespaces, each once, the next one first.
    order: VecDeque<String>,
}

impl Lane {
    /// A lane that admits this many passes at once.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: at_once,
            waiting: Queue::default(),
        })))
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    ///
    /// Never `None` as long as the lane exists.
    pub async fn enter(&self, namespace: &str) -> Option<Permit> {
        let receiver = {
            let mut state = self.lock();
            if let Some(left) = state.free.checked_sub(1) {
                state.free = left;
                return Some(Permit(self.clone()));
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push(namespace, sender);
            receiver
        };
        receiver.await.ok()
    }

    /// The next waiter that still waits; if there is none, the permit becomes free.
    fn next(&self) -> Option<oneshot::Sender<Permit>> {
        let mut state = self.lock();
        while let Some(sender) = state.waiting.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        state.free += 1;
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(sender) = self.0.next() {
            // If the waiter has just left, the permit is dropped in the channel, and thereby passed on.
            let _: Result<(), Self> = sender.send(Self(self.0.clone()));
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, namespace: &str, waiter: T) {
        if let Some(lane) = self.lanes.get_mut(namespace) {
            lane.push_back(waiter);
        } else {
            self.lanes.insert(namespace.to_owned(), VecDeque::from([waiter]));
            self.order.push_back(namespace.to_owned());
        }
    }

    fn pop(&mut self) -> Option<T> {
        let namespace = self.order.pop_front()?;
        let lane = self.lanes.get_mut(&namespace)?;
        let first = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&namespace);
        } else {
            self.order.push_back(namespace);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;
    use std::pin::Pin;

    fn popped<T>(mut queue: Queue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn one_pod_does_not_wait_for_five_hundred_of_another_tenant() {
        let mut queue = Queue::default();
        for pod in 0..500 {
            queue.push("crowd", format!("crowd-{pod}"));
        }
        queue.push("lone", "lone".to_owned());
        let mut order = popped(queue);
        assert_eq!(order.remove(1), "lone");
        let crowd: Vec<_> = (0..500).map(|pod| format!("crowd-{pod}")).collect();
        assert_eq!(order, crowd);
    }

    proptest! {
        /// Between two turns of a waiting namespace, every other waiting namespace has at most one.
        #[test]
        fn namespaces_take_turns(pushed in proptest::collection::vec(0_u8..5, 0..60)) {
            let mut queue = Queue::default();
            for (nth, namespace) in pushed.iter().enumerate() {
                queue.push(&namespace.to_string(), (*namespace, nth));
            }
            let order = popped(queue);
            prop_assert_eq!(order.len(), pushed.len());
            for namespace in 0..5 {
                let lanes: Vec<_> = (0..order.len()).filter(|at| order[*at].0 == namespace).collect();
                prop_assert!(lanes.windows(2).all(|two| order[two[0]].1 < order[two[1]].1));
                let mut since = 0;
                for turn in lanes {
                    let mut between: Vec<_> = order[since..turn].iter().map(|(other, _)| *other).collect();
                    between.sort_unstable();
                    prop_assert!(between.windows(2).all(|two| two[0] != two[1]), "{:?}", order);
                    since = turn + 1;
                }
            }
        }
    }

    type Waiting = Pin<Box<dyn Future<Output = Option<Permit>> + Send>>;

    /// Enters the lane; returns the pending future if there is no permit.
    fn enters(lane: &Lane, namespace: &'static str) -> Result<Permit, Waiting> {
        let lane = lane.clone();
        let mut asked: Waiting = Box::pin(async move { lane.enter(namespace).await });
        match (&mut asked).now_or_never() {
            Some(turn) => Ok(turn.unwrap()),
            None => Err(asked),
        }
    }

    fn has_permit(waiting: &mut Waiting) -> Option<Permit> {
        waiting.now_or_never().flatten()
    }

    #[test]
    fn permits_are_limited_and_namespaces_take_turns() {
        let lane = Lane::new(2);
        let (first, second) = (enters(&lane, "crowd").ok(), enters(&lane, "crowd").ok());
        assert!(first.is_some() && second.is_some());
        let mut third = enters(&lane, "crowd").err().unwrap();
        let mut fourth = enters(&lane, "crowd").err().unwrap();
        let mut lone = enters(&lane, "lone").err().unwrap();
        drop(first);
        let third = has_permit(&mut third);
        assert!(third.is_some() && has_permit(&mut lone).is_none());
        drop(second);
        let lone = has_permit(&mut lone);
        assert!(lone.is_some() && has_permit(&mut fourth).is_none());
        drop(third);
        let fourth = has_permit(&mut fourth);
        drop((fourth, lone));
        let free: Vec<_> = (0..2).map(|_| enters(&lane, "crowd").ok().unwrap()).collect();
        assert!(enters(&lane, "crowd").is_err());
        drop(free);
    }

    #[test]
    fn starts_at_once_can_be_chosen() {
        for (asked, expected) in [(None, 2), (NonZeroUsize::new(5), 5)] {
            let lanes = Lanes::new(asked);
            let held: Vec<_> = (0..expected)
                .map(|_| enters(&lanes.starts, "a").ok().unwrap())
                .collect();
            assert!(enters(&lanes.starts, "a").is_err(), "{asked:?}");
            drop(held);
        }
    }

    #[test]
    fn a_waiter_that_leaves_loses_no_permit() {
        let lane = Lane::new(1);
        let held = enters(&lane, "a").ok().unwrap();
        let gone = enters(&lane, "a").err().unwrap();
        let second = enters(&lane, "a").err().unwrap();
        let mut last = enters(&lane, "a").err().unwrap();
        drop(gone);
        drop(held);
        // The second waiter has been given the permit, and leaves without taking it.
        assert!(has_permit(&mut last).is_none());
        drop(second);
        assert!(has_permit(&mut last).is_some());
    }
}
