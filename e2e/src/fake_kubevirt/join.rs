//! TLS bootstrap: from the token in the seed to a kubelet's own client certificate.

use std::time::Duration;

use anyhow::Result;
use kube::Client;
use tokio::time::{sleep, timeout};

use super::csr::{Answer, Ask, Filed};
use super::log::{GuestEvent, GuestLog};
use super::retry::code;
use super::script::Script;
use crate::system::pki::Pair;

/// Delays after which the kubelet, restarted by its guest's init, asks again after a refusal.
const BACKOFF: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// How long one more request with a used token waits for its answer.
const REUSE_ANSWER: Duration = Duration::from_secs(2);
/// Longer than the API server's token cache lives (10 s).
const REUSE_TRIES: u32 = 30;
const UNAUTHORIZED: u16 = 401;

/// A guest that has its token and nothing else.
pub(super) struct Joiner<'a> {
    pub(super) node: &'a str,
    pub(super) token: &'a Client,
    pub(super) script: &'a Script,
    pub(super) log: &'a GuestLog,
}

/// What joining gave: the identity, and a request under way that should not have been made.
pub(super) struct Joined {
    pub(super) identity: Pair,
    pub(super) second: Option<Filed>,
}

impl Joiner<'_> {
    /// Asks for a client certificate with a new key each time, until it has one or gives up.
    pub(super) async fn join(&self) -> Option<Joined> {
        let mut delays = BACKOFF.iter();
        loop {
            match self.attempt().await {
                Ok(Some(joined)) => {
                    self.note(GuestEvent::Joined);
                    return Some(joined);
                }
                Ok(None) => {}
                Err(error) if code(&error) == Some(UNAUTHORIZED) => self.note(GuestEvent::TokenRefused),
                Err(error) => {
                    tracing::debug!(node = self.node, error = format!("{error:#}"), "joining failed");
                }
            }
            let Some(delay) = delays.next() else { break };
            sleep(*delay).await;
        }
        self.note(GuestEvent::GaveUp);
        None
    }

    async fn attempt(&self) -> Result<Option<Joined>> {
        let node = self.script.wrong_node_name.as_deref().unwrap_or(self.node);
        let ask = Ask::client(node, &self.script.extra_sans);
        let filed = ask.file(self.token).await?;
        self.note(GuestEvent::ClientRequestFiled);
        let second = if self.script.second_csr {
            Some(ask.file(self.token).await?)
        } else {
            None
        };
        match filed.answer(self.token).await? {
            Answer::Issued(identity) => return Ok(Some(Joined { identity, second })),
            Answer::Denied(why) => self.note(GuestEvent::ClientRequestDenied(why)),
        }
        // Of two requests made at once, the approver may have seen this one first.
        let Some(second) = second else { return Ok(None) };
        match second.answer(self.token).await? {
            Answer::Issued(identity) => Ok(Some(Joined {
                identity,
                second: None,
            })),
            Answer::Denied(why) => {
                self.note(GuestEvent::SecondRequestDenied(why));
                Ok(None)
            }
        }
    }

    /// Waits for what becomes of the second request; the token may die meanwhile, which is an answer too.
    pub(super) async fn await_second(&self, second: Option<Filed>) {
        let Some(second) = second else { return };
        match second.answer(self.token).await {
            Ok(Answer::Issued(_)) => self.note(GuestEvent::SecondRequestGranted),
            Ok(Answer::Denied(why)) => self.note(GuestEvent::SecondRequestDenied(why)),
            Err(error) if code(&error) == Some(UNAUTHORIZED) => self.note(GuestEvent::TokenRefused),
            Err(error) => tracing::debug!(node = self.node, error = format!("{error:#}"), "no second answer"),
        }
    }

    /// Goes on using the token after joining, until the API server does not know it any more.
    pub(super) async fn reuse_token(&self) {
        if !self.script.reuse_token {
            return;
        }
        for _ in 0..REUSE_TRIES {
            let filed = match Ask::client(self.node, &[]).file(self.token).await {
                Ok(filed) => filed,
                Err(error) if code(&error) == Some(UNAUTHORIZED) => {
                    return self.note(GuestEvent::TokenRefused);
                }
                Err(error) => {
                    tracing::debug!(
                        node = self.node,
                        error = format!("{error:#}"),
                        "reusing the token failed"
                    );
                    sleep(REUSE_ANSWER).await;
                    continue;
                }
            };
            self.note(GuestEvent::TokenStillGood);
            match timeout(REUSE_ANSWER, filed.answer(self.token)).await {
                Ok(Ok(Answer::Issued(_))) => self.note(GuestEvent::ReusedRequestGranted),
                Ok(Ok(Answer::Denied(why))) => self.note(GuestEvent::ReusedRequestDenied(why)),
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(BACKOFF[0]).await;
        }
    }

    fn note(&self, event: GuestEvent) {
        self.log.note(self.node, event);
    }
}
