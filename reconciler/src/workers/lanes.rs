//! Who may have a pass now. Passes are few at a time, and namespaces take turns, so that a burst of one tenant's
//! pods does not hold up another's.
//!
//! Guarantees: a namespace that waits gets every n-th turn where n namespaces wait, however many pods each has; within
//! a namespace, who came first is first. Caveat: a pass under way is never interrupted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::plan::Write;

/// Passes under way at once, by lane; more only makes the API server's queue longer. Few of them are starts: each
/// brings a guest that will have the API server work for it, and those on their way would wait longer for what comes
/// after (`hack/bench reconciler`: with 2 in place of 8, 100 pods at once run sooner, the first as well as the last).
const STARTS_AT_ONCE: usize = 2;
const LIFTS_AT_ONCE: usize = 16;
const OTHERS_AT_ONCE: usize = 16;

/// The three lanes for passes, so that a burst of new pods, or of ends, does not hold up those whose nodes are there.
/// In each, namespaces take turns.
pub struct Lanes {
    /// Pods for which something is about to be made.
    starts: Lane,
    /// Pods whose VM runs, up to the lifted gate.
    lifts: Lane,
    others: Lane,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            starts: Lane::new(STARTS_AT_ONCE),
            lifts: Lane::new(LIFTS_AT_ONCE),
            others: Lane::new(OTHERS_AT_ONCE),
        }
    }
}

impl Lanes {
    /// The lane for a pass that would make these writes, as far as is known before it.
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
    /// Permits left; above zero only where no pass waits.
    free: usize,
    waiting: Queue<oneshot::Sender<Permit>>,
}

/// The right to one pass; dropping it hands it on.
pub struct Permit(Lane);

/// Those who wait, by namespace.
struct Queue<T> {
    lanes: HashMap<String, VecDeque<T>>,
    /// The namespaces that wait, each once, the next one first.
    order: VecDeque<String>,
}

impl Lane {
    /// A lane that admits so many passes at once.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: at_once,
            waiting: Queue::default(),
        })))
    }

    /// Waits for a permit. Dropping the future leaves the lane.
    ///
    /// `None` never comes while the lane is there.
    pub async fn enter(&self, namespace: &str) -> Option<Permit> {
        let told = {
            let mut state = self.lock();
            if let Some(left) = state.free.checked_sub(1) {
                state.free = left;
                return Some(Permit(self.clone()));
            }
            let (sender, told) = oneshot::channel();
            state.waiting.push(namespace, sender);
            told
        };
        told.await.ok()
    }

    /// The next one who still waits; without one, the turn is free.
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
            // Who left just now does not take it; it is dropped then, and so handed on.
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
        /// Between two turns of a namespace that waits on, each other one that waits has one at most.
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

    /// Enters the lane, and waits if there is no permit.
    fn asks(lane: &Lane, namespace: &'static str) -> Result<Permit, Waiting> {
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
    fn so_many_at_once_and_then_in_permit() {
        let lane = Lane::new(2);
        let (first, second) = (asks(&lane, "crowd").ok(), asks(&lane, "crowd").ok());
        assert!(first.is_some() && second.is_some());
        let mut third = asks(&lane, "crowd").err().unwrap();
        let mut fourth = asks(&lane, "crowd").err().unwrap();
        let mut lone = asks(&lane, "lone").err().unwrap();
        drop(first);
        let third = has_permit(&mut third);
        assert!(third.is_some() && has_permit(&mut lone).is_none());
        drop(second);
        let lone = has_permit(&mut lone);
        assert!(lone.is_some() && has_permit(&mut fourth).is_none());
        drop(third);
        let fourth = has_permit(&mut fourth);
        drop((fourth, lone));
        let free: Vec<_> = (0..2).map(|_| asks(&lane, "crowd").ok().unwrap()).collect();
        assert!(asks(&lane, "crowd").is_err());
        drop(free);
    }

    #[test]
    fn who_leaves_the_line_takes_no_turn_along() {
        let lane = Lane::new(1);
        let held = asks(&lane, "a").ok().unwrap();
        let gone = asks(&lane, "a").err().unwrap();
        let told = asks(&lane, "a").err().unwrap();
        let mut last = asks(&lane, "a").err().unwrap();
        drop(gone);
        drop(held);
        // The second has been given its turn, and leaves without having looked.
        assert!(has_permit(&mut last).is_none());
        drop(told);
        assert!(has_permit(&mut last).is_some());
    }
}
