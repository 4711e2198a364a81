//! Request bodies, bounded in size, in time, and in the memory that all of them hold together.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use maroonedpods_server::{Charge, Evicted, WINDOW};
use tokio::time::{Instant, timeout_at};

/// The largest body that is read: twice what the API server takes from a client (3 MiB), and managed fields.
pub const BODY_LIMIT: usize = 8 << 20;
/// A larger body is discarded up to this size, since an answer sent while the client still writes can reach it
/// as a connection reset.
const DISCARD_LIMIT: usize = 64 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What is allocated at once for a body that announces its size; announcing is free, so not all of it.
const RESERVE_LIMIT: usize = 256 << 10;

/// A body as far as it arrived.
#[derive(Debug)]
pub struct Received {
    /// The first bytes, at most [`BODY_LIMIT`].
    pub bytes: Vec<u8>,
    /// Why some are missing.
    pub fault: Option<Fault>,
}

/// Why a body was not read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is larger than [`BODY_LIMIT`].
    TooLarge,
    /// It took longer than ten seconds.
    TooSlow,
    /// The connection broke, or the framing was wrong.
    Broken,
    /// There was no room for it.
    NoRoom,
}

impl Fault {
    /// The HTTP status that describes it, and a sentence for the client.
    #[must_use]
    pub fn describe(self) -> (StatusCode, &'static str) {
        match self {
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is larger than 8 MiB, the most that this webhook reads",
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive within 10 seconds",
            ),
            Self::Broken => (StatusCode::BAD_REQUEST, "the body broke off"),
            Self::NoRoom => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the webhook has too many requests at once: try again",
            ),
        }
    }
}

/// Reads `body` to its end, keeps up to [`BODY_LIMIT`] bytes and discards the rest. `charge` reserves the memory;
/// without one there is always room.
pub async fn receive(body: Body, charge: Option<&Charge>) -> Received {
    let mut bytes = Vec::new();
    let deadline = Instant::now() + BODY_TIMEOUT;
    let fault = match timeout_at(deadline, fill(&mut bytes, body, charge)).await {
        Ok(fault) => fault,
        Err(_elapsed) => Some(Fault::TooSlow),
    };
    Received { bytes, fault }
}

async fn fill(bytes: &mut Vec<u8>, mut body: Body, charge: Option<&Charge>) -> Option<Fault> {
    let announced = body.size_hint().exact();
    let announced = announced.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    // Of a body that is too large, its beginning is kept, where the uid is.
    let keep = announced.filter(|size| *size <= BODY_LIMIT);
    let mut room = keep.unwrap_or(WINDOW);
    if room > WINDOW && reserve(charge, room - WINDOW).await.is_err() {
        return Some(Fault::NoRoom);
    }
    bytes.reserve_exact(room.min(RESERVE_LIMIT));
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Some(Fault::Broken);
        };
        let Some(data) = frame.data_ref() else { continue };
        size += data.len();
        if announced.is_none() && size > room && size <= BODY_LIMIT {
            // The client did not announce the size.
            let more = room.max(size - room).min(BODY_LIMIT - room);
            if reserve(charge, more).await.is_err() {
                return Some(Fault::NoRoom);
            }
            room += more;
        }
        bytes.extend_from_slice(&data[..data.len().min(room - bytes.len())]);
        if size > DISCARD_LIMIT {
            break;
        }
    }
    (size > BODY_LIMIT).then_some(Fault::TooLarge)
}

async fn reserve(charge: Option<&Charge>, bytes: usize) -> Result<(), Evicted> {
    match charge {
        Some(charge) => charge.reserve(bytes).await,
        None => Ok(()),
    }
}
