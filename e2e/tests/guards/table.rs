//! Attempts and what became of them.

use std::fmt::Debug;
use std::future::Future;

/// Attempts of one attacker, for people to read when all are made.
pub struct Table {
    who: &'static str,
    rows: Vec<(String, String)>,
}

impl Table {
    pub fn of(who: &'static str) -> Self {
        Self {
            who,
            rows: Vec::new(),
        }
    }

    /// The API server must refuse the attempt with a message that contains `says`, and then let the twin pass: the
    /// same request but for what makes it an attack.
    pub async fn refuses<T: Debug, U: Debug>(
        &mut self,
        attempt: &str,
        says: &str,
        attack: impl Future<Output = kube::Result<T>>,
        twin: impl Future<Output = kube::Result<U>>,
    ) {
        let message = match attack.await {
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404 | 409 | 422) => {
                status.message
            }
            Err(error) => panic!("{}, {attempt}: {error}", self.who),
            Ok(object) => panic!("{}, {attempt}: accepted: {object:#?}", self.who),
        };
        self.fails(attempt, says, message);
        if let Err(error) = twin.await {
            panic!("{}, the harmless twin of: {attempt}: {error}", self.who);
        }
    }

    /// The attempt has failed elsewhere than in its own request, with this message.
    pub fn fails(&mut self, attempt: &str, says: &str, message: String) {
        assert!(message.contains(says), "{}, {attempt}: {message}", self.who);
        self.rows.push((attempt.to_owned(), message));
    }

    pub fn print(self) {
        let head = [format!(
            "\n| attempt | {}: the server's message |\n|---|---|",
            self.who
        )];
        let row =
            |(attempt, message): (String, String)| format!("| {attempt} | {} |", message.replace('|', "\\|"));
        let lines: Vec<_> = head.into_iter().chain(self.rows.into_iter().map(row)).collect();
        // At once: tests that run beside it print tables too.
        println!("{}", lines.join("\n"));
    }
}
