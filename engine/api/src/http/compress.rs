//! Compression of answers, off the control threads.
//!
//! Invariants:
//!   * a control thread compresses at most [`INLINE_BYTES_MAX`] in one go; larger pieces go to a thread that may block
//!   * an answer is compressed piece by piece: what waits is at most one piece and its compressed form
//!   * an answer that ends with an error ends so for the client as well: it never looks whole

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// Answers whose length is known to be smaller stay as they are: a packet is the least that is sent.
const PLAIN_BYTES_MAX: u64 = 512;
/// Bytes that are compressed on the thread of the connection: some tenths of a millisecond.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// Small pieces of an answer are gathered up to this many bytes.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentEncoding {
    Gzip,
    Zstd,
}

impl ContentEncoding {
    pub fn as_str(self) -> &'static str {
        match self {
            ContentEncoding::Gzip => "gzip",
            ContentEncoding::Zstd => "zstd",
        }
    }

    /// Compresses the whole of something, for answers that are sent again and again.
    pub fn compress(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut encoder = Encoder::new(self)?;
        let mut whole = encoder.write(bytes)?;
        whole.extend_from_slice(&encoder.finish()?);
        Ok(whole)
    }
}

/// The encoding that a client likes best; of equal ones zstd.
pub(crate) fn preferred_encoding(headers: &HeaderMap) -> Option<ContentEncoding> {
    let mut best: Option<(f32, ContentEncoding)> = None;
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for part in values.flat_map(|value| value.split(',')) {
        let (name, parameters) = part.split_once(';').unwrap_or((part, ""));
        let encoding = match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => ContentEncoding::Gzip,
            "zstd" => ContentEncoding::Zstd,
            _ => continue,
        };
        let quality = match parameters.trim().strip_prefix("q=") {
            Some(quality) => quality.trim().parse().unwrap_or(0.0),
            None => 1.0,
        };
        let is_better =
            best.is_none_or(|(other, _)| quality > other || (quality == other && encoding == ContentEncoding::Zstd));
        if quality > 0.0 && is_better {
            best = Some((quality, encoding));
        }
    }
    best.map(|(_, encoding)| encoding)
}

/// Middleware: compresses an answer if the client takes it so and it is worth it.
pub(crate) async fn compress(request: Request, next: Next) -> Response {
    let encoding = preferred_encoding(request.headers());
    let mut response = next.run(request).await;
    let headers = response.headers();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let is_plain = headers.contains_key(header::CONTENT_ENCODING)
        || headers.contains_key(header::CONTENT_RANGE)
        || kind.starts_with("image/")
        || kind.starts_with("font/")
        || kind.starts_with("text/event-stream")
        || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || response.body().size_hint().upper().is_some_and(|bytes| bytes <= PLAIN_BYTES_MAX);
    if is_plain {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let Some((encoding, encoder)) = encoding.and_then(|encoding| Some((encoding, Encoder::new(encoding).ok()?))) else {
        return response;
    };
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.as_str()));
    response.map(|body| Body::new(CompressedBody::new(body, encoder)))
}

enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(encoding: ContentEncoding) -> io::Result<Encoder> {
        Ok(match encoding {
            ContentEncoding::Gzip => {
                Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default()))
            }
            ContentEncoding::Zstd => Encoder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 0)?),
        })
    }

    /// Takes a piece; returns what is ready to be sent.
    fn write(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => {
                encoder.write_all(piece)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Encoder::Zstd(encoder) => {
                encoder.write_all(piece)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// The rest, when nothing more comes.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// What is done with one piece: the encoder comes back unless it was the last one.
type Work = (Option<Encoder>, io::Result<Vec<u8>>);

fn work(mut encoder: Encoder, piece: &[u8], is_last: bool) -> Work {
    let written = encoder.write(piece);
    match (written, is_last) {
        (Ok(mut bytes), true) => {
            let rest = encoder.finish();
            let whole = rest.map(|rest| {
                bytes.extend_from_slice(&rest);
                bytes
            });
            (None, whole)
        }
        (written, _) => (Some(encoder), written),
    }
}

struct CompressedBody {
    body: Body,
    /// Away while a thread works with it; gone after the end.
    encoder: Option<Encoder>,
    at_work: Option<JoinHandle<Work>>,
    /// Bytes that wait to be compressed.
    piece: Vec<u8>,
    at_end: bool,
}

impl CompressedBody {
    fn new(body: Body, encoder: Encoder) -> CompressedBody {
        CompressedBody { body, encoder: Some(encoder), at_work: None, piece: Vec::new(), at_end: false }
    }

    /// Gathers a piece. Ready once there is one, or the answer ends.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        while !self.at_end && self.piece.len() < PIECE_BYTES {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.piece.extend_from_slice(&data);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => self.at_end = true,
                Poll::Pending if self.piece.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl HttpBody for CompressedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(at_work) = &mut this.at_work {
                let done = ready!(Pin::new(at_work).poll(cx));
                this.at_work = None;
                let (encoder, bytes) = done.map_err(axum::Error::new)?;
                this.encoder = encoder;
                let bytes = bytes.map_err(axum::Error::new)?;
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(http_body::Frame::data(bytes.into()))));
                }
            }
            if this.encoder.is_none() {
                return Poll::Ready(None);
            }
            ready!(this.poll_piece(cx))?;
            let (piece, is_last) = (std::mem::take(&mut this.piece), this.at_end);
            let Some(encoder) = this.encoder.take() else { return Poll::Ready(None) };
            if piece.len() > INLINE_BYTES_MAX {
                this.at_work = Some(query::spawn_low_priority(move || work(encoder, &piece, is_last)));
            } else {
                let (encoder, bytes) = work(encoder, &piece, is_last);
                this.encoder = encoder;
                let bytes = bytes.map_err(axum::Error::new)?;
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(http_body::Frame::data(bytes.into()))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.at_work.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn negotiated(accept: &str) -> Option<ContentEncoding> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accept.parse().unwrap());
        preferred_encoding(&headers)
    }

    #[test]
    fn clients_choose() {
        for (accept, want) in [
            ("gzip", Some(ContentEncoding::Gzip)),
            ("gzip, deflate, br, zstd", Some(ContentEncoding::Zstd)),
            ("zstd;q=0.1, gzip;q=0.5", Some(ContentEncoding::Gzip)),
            ("GZIP;q=0", None),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(negotiated(accept), want, "{accept}");
        }
    }

    async fn compressed(
        pieces: Vec<Result<Vec<u8>, io::Error>>,
        encoding: ContentEncoding,
    ) -> Result<Vec<u8>, axum::Error> {
        let body = Body::from_stream(futures_lite::stream::iter(pieces));
        let body = Body::new(CompressedBody::new(body, Encoder::new(encoding).unwrap()));
        Ok(axum::body::to_bytes(body, usize::MAX).await?.to_vec())
    }

    #[tokio::test]
    async fn answers_come_back_whole() {
        let piece = |bytes: usize| (0..bytes).map(|at| (at * at) as u8).collect::<Vec<u8>>();
        for sizes in [vec![], vec![0], vec![1], vec![100_000, 3, 0, 70_000], vec![1000; 300]] {
            let pieces: Vec<Vec<u8>> = sizes.iter().map(|size| piece(*size)).collect();
            let want = pieces.concat();
            let frames = || pieces.iter().cloned().map(Ok).collect();
            let packed = compressed(frames(), ContentEncoding::Gzip).await.unwrap();
            let mut found = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut found).unwrap();
            assert!(found == want, "{sizes:?}");
            let packed = compressed(frames(), ContentEncoding::Zstd).await.unwrap();
            assert!(zstd::stream::decode_all(&packed[..]).unwrap() == want, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_fails_does_not_look_whole() {
        let pieces = vec![Ok(vec![1; 100]), Err(io::Error::other("cut"))];
        assert!(compressed(pieces, ContentEncoding::Gzip).await.is_err());
    }
}
