//! Writes that are made again until they are taken, as controllers and kubelets do.

use std::fmt::Display;
use std::time::Duration;

use tokio::time;

/// How soon a failed request is made again, at first.
const FIRST: Duration = Duration::from_millis(100);
/// ... and at most, after doubling.
const LAST: Duration = Duration::from_secs(5);
const GONE: u16 = 404;

/// Makes `attempt` until it succeeds, and says what goes wrong in between at debug level.
pub(super) async fn persist<T, E, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut delay = FIRST;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::debug!(error = format!("{error:#}"), "{what} failed, will be tried again"),
        }
        time::sleep(delay).await;
        delay = (delay * 2).min(LAST);
    }
}

/// [`persist`], unless the object is not there any more.
pub(super) async fn persist_while_there<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> kube::Result<T>
where
    F: Future<Output = kube::Result<T>>,
{
    persist(what, || {
        let attempt = attempt();
        async {
            match attempt.await {
                Err(kube::Error::Api(status)) if status.code == GONE => Ok(Err(kube::Error::Api(status))),
                answer => answer.map(Ok),
            }
        }
    })
    .await
}

/// The API server's status code in an error of a request or of a watch.
pub(super) fn code(error: &anyhow::Error) -> Option<u16> {
    use kube::runtime::watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    error.chain().find_map(|cause| {
        if let Some(WatchError(status)) = cause.downcast_ref() {
            return Some(status.code);
        }
        let request = match cause.downcast_ref() {
            Some(InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error)) => Some(error),
            _ => cause.downcast_ref(),
        };
        match request {
            Some(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    })
}
