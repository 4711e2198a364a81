//! What the demo prints: lines with the time before them, and a word about what it waits for where it is silent.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// After a silence of this length the screen says what it waits for; the next time after twice as long, and so on.
const SILENCE: Duration = Duration::from_secs(5);
const LONGEST_SILENCE: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Prints to standard output; its clock starts with it.
pub struct Screen {
    shared: Arc<Shared>,
    // Dropped, it ends the thread that looks for silence.
    _alive: mpsc::Sender<()>,
}

struct Shared {
    start: Instant,
    state: Mutex<State>,
}

struct State {
    doing: Option<Doing>,
    last_line: Instant,
}

struct Doing {
    what: String,
    since: Instant,
    /// How long a silence about it is broken next.
    silence: Duration,
}

impl Screen {
    /// A screen whose clock is at zero.
    pub fn new() -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            start: now,
            state: Mutex::new(State {
                doing: None,
                last_line: now,
            }),
        });
        let (alive, ended) = mpsc::channel();
        let looking = Arc::clone(&shared);
        thread::spawn(move || {
            while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                looking.break_silence();
            }
        });
        Self {
            shared,
            _alive: alive,
        }
    }

    /// Prints a line with the time.
    pub fn say(&self, line: &str) {
        self.shared.say(&mut self.shared.lock(), line);
    }

    /// Prints a line with the time, about something that takes a while: it is said again in a long silence.
    pub fn begin(&self, what: &str) {
        let mut state = self.shared.lock();
        self.shared.say(&mut state, what);
        state.doing = Some(Doing {
            what: what.to_owned(),
            since: Instant::now(),
            silence: SILENCE,
        });
    }

    /// Nothing is being done: silence is expected.
    pub fn rest(&self) {
        self.shared.lock().doing = None;
    }

    /// Prints some lines as they are, with nothing in between.
    pub fn show(&self, block: &str) {
        let mut state = self.shared.lock();
        println!("{block}");
        state.last_line = Instant::now();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete at once, so a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, state: &mut State, line: &str) {
        println!("{} {line}", seconds(self.start.elapsed()));
        state.last_line = Instant::now();
    }

    fn break_silence(&self) {
        let mut state = self.lock();
        let silent = state.last_line.elapsed();
        let Some(doing) = state.doing.as_mut().filter(|doing| silent >= doing.silence) else {
            return;
        };
        doing.silence = (doing.silence * 2).min(LONGEST_SILENCE);
        let line = format!("… {} ({} s)", doing.what, doing.since.elapsed().as_secs());
        self.say(&mut state, &line);
    }
}

/// As it stands before each line.
fn seconds(elapsed: Duration) -> String {
    format!("{:7.2}s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned() {
        assert_eq!(seconds(Duration::from_millis(3270)), "   3.27s");
        assert_eq!(seconds(Duration::from_secs(100)), " 100.00s");
    }
}
