//! One watch that runs for ever: it fills a [`Cache`] and keeps it up to date.
//!
//! Guarantees: an object that cannot be read affects no other object, in lists as in events. After a connection ends,
//! the watch continues from the last version seen. It lists again only if the API server no longer has that version,
//! or if a namespace has more objects than the cache keeps of one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::api::{Api, ListParams, WatchParams};
use kube::core::response::Status;
use kube::core::{Request, Resource};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::calls::client;
use super::{Cache, Draft, Identity, Pages, Unreadable, View, object};
use crate::api::{CallError, call};
use crate::metrics::Metrics;

/// Seconds after which a watch reconnects; this also bounds how long a dead connection goes unnoticed.
const SECONDS: u32 = 120;
/// How late a connection may end.
const MARGIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After a watch has worked for this long, the next failure counts as a first one again.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// The buffer shrinks to this size after a longer line.
const USUAL_LINE: usize = 64 << 10;

/// What to watch.
pub struct Watch<V, K> {
    /// The API that holds the objects.
    pub api: Api<K>,
    /// Which of the objects to watch.
    pub scope: ListParams,
    /// The cache to keep up to date.
    pub cache: Cache<V>,
    /// Counts failures.
    pub metrics: Arc<Metrics>,
}

/// What a watch reports.
pub enum News<'a, V> {
    /// A list contains the object.
    Found(&'a V),
    /// An object is new, or a kept part of it changed.
    Changed(&'a V),
    /// An object was deleted, or is not one of ours any more.
    Gone(&'a V),
    /// A list is complete. Objects that vanished since the last list are not reported one by one.
    Listed,
}

/// Why a connection ended.
enum End {
    /// List again: the API server no longer has the version, or the cache does not hold all objects.
    Forgotten,
    Failed(CallError),
}

impl From<CallError> for End {
    fn from(error: CallError) -> Self {
        if error.is_expired() {
            Self::Forgotten
        } else {
            Self::Failed(error)
        }
    }
}

impl<V: View, K: Clone + Resource> Watch<V, K> {
    /// Watches for ever, and reports each change once it is in the cache.
    pub async fn run(self, mut notify: impl FnMut(News<'_, V>)) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let ended = self.session(&mut notify).await;
            failures = if begun.elapsed() > WELL_AFTER {
                0
            } else {
                failures + 1
            };
            if let End::Failed(error) = ended {
                self.metrics.watch_failed(V::KIND);
                tracing::warn!(kind = %V::KIND, %error, "a watch failed, will try again");
            }
            tokio::time::sleep(pause(failures)).await;
        }
    }

    /// Lists, and follows the changes from there for as long as that works.
    async fn session(&self, notify: &mut impl FnMut(News<'_, V>)) -> End {
        let mut version = match self.fill(notify).await {
            Ok(version) => version,
            Err(end) => return end,
        };
        let mut failed = false;
        loop {
            let begun = Instant::now();
            match self.follow(&mut version, notify).await {
                // Events do not show how many objects still share a view.
                Ok(()) if self.cache.is_truncated() => return End::Forgotten,
                Ok(()) => failed = false,
                // One failure may be the connection's. After two in a row, the version itself is in doubt.
                Err(End::Failed(error)) if !failed => {
                    failed = true;
                    self.metrics.watch_failed(V::KIND);
                    tracing::warn!(kind = %V::KIND, %error, "a watch failed, will go on from where it was");
                }
                Err(end) => return end,
            }
            // Do not reconnect at once to an API server that ends each connection at once.
            tokio::time::sleep(FIRST_PAUSE.saturating_sub(begun.elapsed())).await;
        }
    }

    async fn fill(&self, notify: &mut impl FnMut(News<'_, V>)) -> Result<String, End> {
        let mut pages = Pages::new(&self.api, &self.scope);
        let (mut draft, mut unreadable, mut version) = (Draft::default(), Vec::new(), String::new());
        while let Some(page) = pages.next::<V>().await.map_err(End::from)? {
            draft.add_page(page.items);
            for skipped in page.unreadable {
                self.report(&skipped);
                unreadable.extend(skipped.identity);
            }
            version = page.resource_version;
        }
        self.cache.fill(draft, &unreadable);
        for view in self.cache.all() {
            notify(News::Found(&view));
        }
        notify(News::Listed);
        Ok(version)
    }

    /// Follows one connection to its end.
    async fn follow(&self, version: &mut String, notify: &mut impl FnMut(News<'_, V>)) -> Result<(), End> {
        let params = WatchParams {
            label_selector: self.scope.label_selector.clone(),
            field_selector: self.scope.field_selector.clone(),
            timeout: Some(SECONDS),
            ..WatchParams::default()
        };
        let request = Request::new(self.api.resource_url())
            .watch(&params, version)
            .map_err(|error| CallError::from(kube::Error::BuildRequest(error)))?;
        let client = client(&self.api);
        let mut lines = std::pin::pin!(call(client.request_stream(request)).await?);
        let mut line = Vec::new();
        while next(&mut lines, &mut line).await {
            match Event::of(&String::from_utf8_lossy(&line))? {
                Event::Object { gone, json } => self.take(gone, &json, version, notify),
                Event::Bookmark(seen) => *version = seen,
            }
            line.clear();
            line.shrink_to(USUAL_LINE);
        }
        Ok(())
    }

    fn take(&self, gone: bool, json: &str, version: &mut String, notify: &mut impl FnMut(News<'_, V>)) {
        let seen = |identity: &Identity, version: &mut String| {
            if !identity.resource_version.is_empty() {
                version.clone_from(&identity.resource_version);
            }
        };
        match object::<V>(json) {
            Ok((identity, view)) => {
                seen(&identity, version);
                match view.filter(|_| !gone) {
                    Some(view) => {
                        if let Some(changed) = self.cache.apply(&identity, view) {
                            notify(News::Changed(&changed));
                        }
                    }
                    None => self.forget(&identity, notify),
                }
            }
            Err(unreadable) => {
                self.report(&unreadable);
                if let Some(identity) = &unreadable.identity {
                    seen(identity, version);
                    if gone {
                        self.forget(identity, notify);
                    }
                }
            }
        }
    }

    /// Removes an object that was deleted or is not one of ours any more.
    fn forget(&self, identity: &Identity, notify: &mut impl FnMut(News<'_, V>)) {
        if let Some(view) = self.cache.remove(identity) {
            notify(News::Gone(&view));
        }
    }

    fn report(&self, unreadable: &Unreadable) {
        self.metrics.unreadable(V::KIND);
        tracing::warn!(
            kind = %V::KIND,
            "{unreadable}; it is skipped, and its last known state stays"
        );
    }
}

/// Reads the next line; false if there was none. A connection without a line for too long counts as dead.
async fn next<R: AsyncBufRead + Unpin>(lines: &mut R, line: &mut Vec<u8>) -> bool {
    let idle = Duration::from_secs(u64::from(SECONDS)) + MARGIN;
    match tokio::time::timeout(idle, lines.read_until(b'\n', line)).await {
        Ok(Ok(read)) => read > 0 && line.ends_with(b"\n"),
        // A broken connection is opened again, like one that ended.
        Ok(Err(error)) => {
            tracing::debug!(%error, "a watch's connection broke off");
            false
        }
        Err(_) => false,
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
        .min(LONGEST_PAUSE)
}

enum Event {
    Object { gone: bool, json: String },
    Bookmark(String),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    type_: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Event {
    fn of(line: &str) -> Result<Self, End> {
        let unexpected = |what: &str| CallError::Unexpected(format!("{what} in a watch"));
        let read: Line = serde_json::from_str(line).map_err(|_| unexpected("not an event"))?;
        let json = read.object.get();
        match read.type_.as_str() {
            "ADDED" | "MODIFIED" | "DELETED" => Ok(Self::Object {
                gone: read.type_ == "DELETED",
                json: json.to_owned(),
            }),
            "BOOKMARK" => {
                let bookmark = Bookmark::deserialize(read.object)
                    .map_err(|_| unexpected("a bookmark without a version"))?;
                Ok(Self::Bookmark(bookmark.metadata.resource_version))
            }
            "ERROR" => {
                let status: Status =
                    serde_json::from_str(json).map_err(|_| unexpected("an error without a status"))?;
                Err(CallError::from(kube::Error::Api(Box::new(status))).into())
            }
            _ => Err(unexpected("an unknown event").into()),
        }
    }
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
}
