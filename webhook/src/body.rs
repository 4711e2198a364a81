//! Request bodies, bounded in size and time.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

/// The largest body that is read: twice what the API server takes from a client (3 MiB), and managed fields.
pub const BODY_LIMIT: usize = 8 << 20;
/// A larger body is discarded up to this size, since an answer sent while the client still writes can reach it
/// as a connection reset.
const DISCARD_LIMIT: usize = 64 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What is set aside at once for a body that announces its size; announcing is free, so not all of it.
const RESERVE_LIMIT: u64 = 256 << 10;

/// A body as far as it arrived.
#[derive(Debug)]
pub struct Received {
    /// The first bytes, at most [`BODY_LIMIT`].
    pub bytes: Vec<u8>,
    /// Why there are not all of them.
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
}

impl Fault {
    /// The HTTP status that describes it.
    #[must_use]
    pub fn code(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }

    /// A sentence for the client.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::TooLarge => "the body is larger than 8 MiB, the most that this webhook reads",
            Self::TooSlow => "the body did not arrive within 10 seconds",
            Self::Broken => "the body broke off",
        }
    }
}

/// Reads `body` to its end, to [`BODY_LIMIT`] bytes and beyond that into the void.
pub async fn receive(body: Body) -> Received {
    let announced = body.size_hint().lower().min(RESERVE_LIMIT);
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or_default());
    let deadline = Instant::now() + BODY_TIMEOUT;
    let fault = match timeout_at(deadline, fill(&mut bytes, body)).await {
        Ok(fault) => fault,
        Err(_elapsed) => Some(Fault::TooSlow),
    };
    Received { bytes, fault }
}

async fn fill(bytes: &mut Vec<u8>, mut body: Body) -> Option<Fault> {
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Some(Fault::Broken);
        };
        let Some(data) = frame.data_ref() else { continue };
        let room = BODY_LIMIT - bytes.len();
        bytes.extend_from_slice(&data[..data.len().min(room)]);
        size += data.len();
        if size > DISCARD_LIMIT {
            break;
        }
    }
    (size > BODY_LIMIT).then_some(Fault::TooLarge)
}
