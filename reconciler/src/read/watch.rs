//! One watch, for ever: it fills a [`Cache`] and keeps it up to date.
//!
//! Guarantees: one object that cannot be read costs nothing but itself, in lists as in events; after each connection that
//! ends, it goes on from the last version seen, and lists anew only where the API server has forgotten that version or a
//! namespace has more objects than are kept of one.

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

/// Seconds after which a watch is made anew; it also bounds how long a dead connection goes unnoticed.
const SECONDS: u32 = 120;
/// What a connection may be late with its end.
const MARGIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A watch that held so long was well: what fails next is a first failure again.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// Where a line was longer, its memory is given back.
const USUAL_LINE: usize = 64 << 10;

/// What is watched.
pub struct Watch<V, K> {
    /// The objects.
    pub api: Api<K>,
    /// Which of them.
    pub scope: ListParams,
    /// Where they are kept.
    pub cache: Cache<V>,
    /// Where failures are counted.
    pub metrics: Arc<Metrics>,
}

/// What a watch tells.
pub enum News<'a, V> {
    /// An object is there, as a list says.
    Found(&'a V),
    /// An object came, or changed in what is kept of it.
    Changed(&'a V),
    /// An object went.
    Gone(&'a V),
    /// Everything was listed. Objects that vanished since the last time have no news of their own.
    Listed,
}

/// Why a connection ended.
enum End {
    /// List anew: the API server has forgotten the version, or the cache does not hold all.
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
    /// Watches for ever, and tells what it sees once the cache has it.
    pub async fn run(self, mut tell: impl FnMut(News<'_, V>)) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let ended = self.session(&mut tell).await;
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

    /// Lists, and follows from there for as long as that works.
    async fn session(&self, tell: &mut impl FnMut(News<'_, V>)) -> End {
        let mut version = match self.fill(tell).await {
            Ok(version) => version,
            Err(end) => return end,
        };
        let mut failed = false;
        loop {
            let begun = Instant::now();
            match self.follow(&mut version, tell).await {
                // Events do not tell how many there are of those that share a view.
                Ok(()) if self.cache.is_cut() => return End::Forgotten,
                Ok(()) => failed = false,
                // One failure is a connection's. After two in a row nothing of the version is believed.
                Err(End::Failed(error)) if !failed => {
                    failed = true;
                    self.metrics.watch_failed(V::KIND);
                    tracing::warn!(kind = %V::KIND, %error, "a watch failed, will go on from where it was");
                }
                Err(end) => return end,
            }
            // An API server that ends each connection at once is not asked again at once.
            tokio::time::sleep(FIRST_PAUSE.saturating_sub(begun.elapsed())).await;
        }
    }

    async fn fill(&self, tell: &mut impl FnMut(News<'_, V>)) -> Result<String, End> {
        let mut pages = Pages::new(&self.api, &self.scope);
        let (mut draft, mut unreadable, mut version) = (Draft::default(), Vec::new(), String::new());
        while let Some(page) = pages.next::<V>().await.map_err(End::from)? {
            draft.take_in(page.items);
            for skipped in page.unreadable {
                self.report(&skipped);
                unreadable.extend(skipped.identity);
            }
            version = page.resource_version;
        }
        self.cache.fill(draft, &unreadable);
        for view in self.cache.all() {
            tell(News::Found(&view));
        }
        tell(News::Listed);
        Ok(version)
    }

    /// One connection, up to its end.
    async fn follow(&self, version: &mut String, tell: &mut impl FnMut(News<'_, V>)) -> Result<(), End> {
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
                Event::Object { gone, json } => self.take(gone, &json, version, tell),
                Event::Bookmark(seen) => *version = seen,
            }
            line.clear();
            line.shrink_to(USUAL_LINE);
        }
        Ok(())
    }

    fn take(&self, gone: bool, json: &str, version: &mut String, tell: &mut impl FnMut(News<'_, V>)) {
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
                            tell(News::Changed(&changed));
                        }
                    }
                    None => self.forget(&identity, tell),
                }
            }
            Err(unreadable) => {
                self.report(&unreadable);
                if let Some(identity) = &unreadable.identity {
                    seen(identity, version);
                    if gone {
                        self.forget(identity, tell);
                    }
                }
            }
        }
    }

    /// Deleted, or none of ours any more.
    fn forget(&self, identity: &Identity, tell: &mut impl FnMut(News<'_, V>)) {
        if let Some(view) = self.cache.remove(identity) {
            tell(News::Gone(&view));
        }
    }

    fn report(&self, unreadable: &Unreadable) {
        self.metrics.unreadable(V::KIND);
        tracing::warn!(
            kind = %V::KIND,
            "{unreadable}; it is skipped, and what was known of it stays"
        );
    }
}

/// The next line, without which a connection is taken for dead; whether there was one.
async fn next<R: AsyncBufRead + Unpin>(lines: &mut R, line: &mut Vec<u8>) -> bool {
    let idle = Duration::from_secs(u64::from(SECONDS)) + MARGIN;
    match tokio::time::timeout(idle, lines.read_until(b'\n', line)).await {
        Ok(Ok(read)) => read > 0 && line.ends_with(b"\n"),
        // A connection that breaks off is made anew, as one that ended.
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
        let read: Line = serde_json::from_str(line).map_err(|_| unexpected("no event"))?;
        let json = read.object.get();
        match read.type_.as_str() {
            "ADDED" | "MODIFIED" | "DELETED" => Ok(Self::Object {
                gone: read.type_ == "DELETED",
                json: json.to_owned(),
            }),
            "BOOKMARK" => {
                let bookmark = Bookmark::deserialize(read.object).map_err(|_| unexpected("no version"))?;
                Ok(Self::Bookmark(bookmark.metadata.resource_version))
            }
            "ERROR" => {
                let status: Status = serde_json::from_str(json).map_err(|_| unexpected("no status"))?;
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
