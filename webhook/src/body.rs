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
const RESERVE_LIMIT: usize = 262_144;

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
    let beyond = room.saturating_sub(WINDOW);
    if beyond != 0 && reserve(charge, beyond).await.is_err() {
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
            let more = more_room(room, size);
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

/// By how much the room for an unannounced body grows once `size` bytes of it have arrived: twofold, or as far as it takes.
fn more_room(room: usize, size: usize) -> usize {
    room.max(size - room).min(BODY_LIMIT - room)
}

async fn reserve(charge: Option<&Charge>, bytes: usize) -> Result<(), Evicted> {
    match charge {
        Some(charge) => charge.reserve(bytes).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Bytes;
    use futures::{StreamExt, stream};

    use super::*;

    const MIB: usize = 1_048_576;
    const LIMIT: usize = 8_388_608;

    /// A body of distinct bytes, as long as that.
    fn written(bytes: usize) -> Vec<u8> {
        (0..=250).cycle().take(bytes).collect()
    }

    /// The same in chunks of 100,000 bytes, which do not tell their sum.
    fn streamed(bytes: usize) -> Body {
        let chunks: Vec<_> = written(bytes)
            .chunks(100_000)
            .map(Bytes::copy_from_slice)
            .collect();
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)))
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_read_whole_whether_it_tells_its_size_or_not() {
        for bytes in [0, 1, WINDOW, WINDOW + 1, MIB, LIMIT] {
            for body in [Body::from(written(bytes)), streamed(bytes)] {
                let received = receive(body, None).await;
                assert_eq!(received.fault, None, "{bytes}");
                assert!(received.bytes == written(bytes), "{bytes}");
            }
        }
    }

    /// The uid is at its beginning.
    #[test]
    fn room_doubles_suffices_and_stays_within_the_limit() {
        assert_eq!(more_room(1000, 1001), 1000);
        assert_eq!(more_room(1000, 5000), 4000);
        assert_eq!(more_room(LIMIT - 10, LIMIT - 5), 10);
        assert_eq!(more_room(1000, LIMIT), LIMIT - 1000);
    }

    #[tokio::test]
    async fn of_a_larger_body_the_beginning_is_kept() {
        for bytes in [LIMIT + 1, 2 * LIMIT] {
            for body in [Body::from(written(bytes)), streamed(bytes)] {
                let received = receive(body, None).await;
                assert_eq!(received.fault, Some(Fault::TooLarge), "{bytes}");
                let kept = received.bytes.len();
                assert!((WINDOW..=LIMIT).contains(&kept), "{kept}");
                assert!(received.bytes == written(kept), "{bytes}");
            }
        }
    }

    #[tokio::test]
    async fn what_does_not_end_is_discarded_up_to_64_mebibytes() {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = sent.clone();
        let chunk = Bytes::from(vec![b' '; MIB]);
        let endless = stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(chunk.clone())
        });
        let received = receive(Body::from_stream(endless), None).await;
        assert_eq!(received.fault, Some(Fault::TooLarge));
        assert_eq!(
            sent.load(Ordering::Relaxed),
            65,
            "the first past 64 MiB is the last"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_ten_seconds() {
        for (seconds, fault) in [(9, None), (11, Some(Fault::TooSlow))] {
            let late = stream::once(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(Bytes::from_static(b"late"))
            });
            let early = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"early and "))]);
            let received = receive(Body::from_stream(early.chain(late)), None).await;
            assert_eq!(received.fault, fault, "{seconds} s");
            assert!(received.bytes.starts_with(b"early and "));
        }
    }

    /// RFC 9110: which status says what.
    #[test]
    fn each_fault_has_its_status_and_says_what_to_do() {
        for (fault, status, part) in [
            (Fault::TooLarge, 413, "8 MiB"),
            (Fault::TooSlow, 408, "10 seconds"),
            (Fault::Broken, 400, "broke off"),
            (Fault::NoRoom, 503, "try again"),
        ] {
            let (code, message) = fault.describe();
            assert_eq!(code.as_u16(), status);
            assert!(message.contains(part), "{message}");
        }
    }
}
